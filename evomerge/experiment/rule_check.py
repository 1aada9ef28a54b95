"""The rules of a contest, applied to an experiment: its models, its budget, its plan of memory."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from evomerge.merging import Mode, choose_placement, memory_need
from evomerge.models import resolve_device
from evomerge.rules import Verdict, is_any_broken, judge, judge_gpu_memory

if TYPE_CHECKING:
    from evomerge.experiment.experiment import Experiment


def all_verdicts(experiment: "Experiment") -> Iterator[Verdict]:
    """The verdicts that need no family, then that on the GPU's memory unless one of them is broken."""
    rules, models = experiment.config.rules, (experiment.base, experiment.experts)
    hours, submits = experiment.config.budget.hours, experiment.config.submission.pack
    found = list(judge(rules, *models, hours, submits=submits)) if rules.are_any else []
    yield from found
    if rules.gpu_gb is None:
        return
    if is_any_broken(found):
        reason = "planned only where no other rule is broken"
        yield Verdict("GPU memory", "run", "unknown", reason, "follow the other remedies first")
        return
    need = memory_need(experiment.family, experiment.config.model.dtype)
    need = replace(need, model=need.model + experiment.more_bytes)
    pool, is_cluster = experiment.config.settings("pool"), experiment.pool_name != "local"
    workers = pool.get("workers") if is_cluster else 1
    count = workers if isinstance(workers, int) else 1
    yield judge_gpu_memory(need, rules.gpu_gb, _mode(experiment), workers=count, cluster=is_cluster)


def _mode(experiment: "Experiment") -> Mode | None:
    """The placement that is set, or that of the GPU here; None where there is no GPU or a cluster has it."""
    model = experiment.config.model
    if model.placement != "auto":
        return choose_placement(model.placement, experiment.family, "cpu", model.dtype, loaded=False).mode
    device = resolve_device(model.device) if experiment.pool_name == "local" else "cpu"
    if device == "cpu":
        return None
    more = experiment.more_bytes
    return choose_placement("auto", experiment.family, device, model.dtype, loaded=False, more=more).mode


def rules_record(experiment: "Experiment") -> Mapping[str, Any]:
    """What result.json says about the rules; empty where there are none."""
    rules = experiment.config.rules
    verdicts = [asdict(verdict) for verdict in experiment.verdicts]
    return {"rules": {"name": rules.name, "verdicts": verdicts}} if rules.are_any else {}
