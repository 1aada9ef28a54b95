"""One command: audit, measure, choose, write the experiment file, show the plan, search."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from evomerge.atomic import write_atomically
from evomerge.autoconfig.choices import choose_approach, choose_rows
from evomerge.autoconfig.experiment_file import experiment_text
from evomerge.autoconfig.hardware import choose_dtype, choose_pool
from evomerge.autoconfig.pace import measure_pace
from evomerge.autoconfig.plan import estimate, plan_lines, refuse_full_disk
from evomerge.autoconfig.request import Request
from evomerge.autoconfig.sizes import SEARCH, SPARE, Sizes, choose_sizes
from evomerge.experiment import (
    Experiment,
    audit_experiment,
    from_config,
    prepare_run,
    run_experiment,
    screen_experiment,
    vocabulary_lines,
)
from evomerge.paths import EXPERIMENT
from evomerge.rules import refuse_broken, verdict_lines
from evomerge.scoring import task_of
from evomerge.terminal import print_line

HOURS = 2.0  # that a search without a limit is planned for, at most
MANY = 8  # experts; more are screened before the search
STANDING = 3  # rows of every search beside the experts: base, uniform average and textbook default
REASONS = {
    "scorer": "sizes of slices for the number of questions and the pace of this machine",
    "budget": "items of the search slice; the comparison at the end comes on top",
    "rules": "the rules that the models and the budget are judged by",
    "screen": "of more experts than this, those stay that lift a task and that the merge needs",
    "submission": "the pack for the contest's starter kit that the run ends with",
    "baselines": "textbook merges that the winner is compared with",
}
TRIAL_SLICES = {"search": 8, "select": 1, "holdout": "all"}  # by which documents are counted and the pace is measured


@dataclass(frozen=True)
class Chosen:
    """A chosen configuration as the text of its experiment file, and the lines of its plan."""

    text: str
    plan: tuple[str, ...]


def run_quick(request: Request, console: Console, started: float | None = None) -> Path:
    """Choose and search, or continue the search of the request's folder; returns the folder.

    `started` is the time of the monotonic clock at which the command began, by which its hours count.
    RunError where the folder holds another search.
    """
    folder, started = request.folder, time.monotonic() if started is None else started
    for line in write_experiment(request, folder / EXPERIMENT):
        print_line(console, line)
    run_experiment(*_prepare(request), console, started)
    return folder


def screen_quick(request: Request, console: Console) -> Mapping[str, Any]:
    """Choose a configuration, and screen the experts in the request's folder; returns the record of the screening."""
    for line in write_experiment(request, request.folder / EXPERIMENT):
        print_line(console, line)
    return screen_experiment(*_prepare(request), console)


def _prepare(request: Request) -> tuple[dict[str, Any], Path]:
    """The configuration of the experiment file in the request's folder, with the request's limits, and the folder."""
    config, folder = prepare_run(request.folder / EXPERIMENT, request.folder)
    limits = {"hours": request.hours} if request.hours is not None else {}
    limits |= {"items": request.items} if request.items is not None else {}
    rules = {"rules": dict(request.rules), "submission": request.submission} if request.rules else {}
    return config | {"budget": config["budget"] | limits} | rules, folder


def write_experiment(request: Request, path: Path) -> Iterator[str]:
    """Audit the models, measure, choose, and write the experiment file; yields lines about each step and the plan.

    A file that is there for the same request is kept. RunError where the file, or a search in its folder, belongs to
    another request; ExpertError where the audit finds a fault that every merge would have.
    """
    request.refuse_other_search(path)
    if path.exists():
        limits = {"hours": request.hours, "items": request.items}
        given = ", ".join(f"budget.{key}={value:g}" for key, value in limits.items() if value is not None)
        yield f"{path}: as it was chosen before{', now with ' * bool(given)}{given}"
        return
    experiment = _trial(request)
    _ = experiment.submission  # a wrong file of inputs is reported before weights are read
    yield from verdict_lines(experiment.config.rules.name, experiment.verdicts)
    refuse_broken(experiment.config.rules.name, experiment.verdicts)
    dtype, dtype_reason = choose_dtype(experiment.family.base.parameter_count)
    experiment.config.model = replace(experiment.config.model, dtype=dtype)
    scorer = experiment.scorer  # a wrong task is reported before weights are read
    yield f"{'audit':10}reading {len(experiment.experts)} experts; {len(scorer.plan.weights)} tasks are loaded"
    audit = audit_experiment(experiment)
    yield from audit.lines()
    yield from vocabulary_lines(experiment)
    audit.refuse_errors()
    for task in scorer.plan.weights:  # whether a prompt looks right is the user's to see
        first = next(item for item in scorer.plan.items("search") if task_of(item) == task)
        yield from scorer.show_item(first)
    yield f"{'measure':10}the speed of the base on this machine"
    chosen = _choose(request, path, experiment, dtype_reason)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, chosen.text)
    yield from chosen.plan
    yield f"{'file':10}{path}"


def _choose(request: Request, path: Path, experiment: Experiment, dtype_reason: str) -> Chosen:
    pool, pool_reason = choose_pool()
    approach, pace = choose_approach(experiment), measure_pace(experiment)
    methods = choose_rows(experiment, approach.sections["method"])
    count, most = len(experiment.experts), request.most or MANY
    rows, screened = min(count, most) + STANDING + len(methods), (count + most) * (count > most)
    seconds = SPARE * (3600 * (request.hours or HOURS) - pace.submission)
    affordable = seconds * pace.items_per_second * pool.get("workers", 1)
    affordable -= min(affordable / 2, screened * SEARCH)
    sizes = choose_sizes(_documents(experiment), rows, approach.price, affordable, request.items)
    config = {
        "name": request.name,
        "base": request.base,
        "experts": dict(request.experts),
        **approach.sections,
        "scorer": _scorer(request, sizes),
        "model": {"dtype": experiment.config.model.dtype, "batch_tokens": pace.batch_tokens},
        "pool": pool,
        "budget": _budget(request, sizes.search_items(approach.price)),
        **({"screen": {"most": most}} if screened else {}),
        "baselines": {"methods": methods},
        "seed": request.seed,
    }
    contest = {"rules": dict(request.rules), "submission": request.submission}
    config |= {key: section for key, section in contest.items() if section}
    if approach.price is not None:
        config["optimizer"] = {**config["optimizer"], "passes": sizes.passes}
    reasons = {**approach.reasons, "model": dtype_reason, "pool": pool_reason} | REASONS
    parts = sizes.parts(rows, approach.price)
    if screened:
        parts = {"screening": screened * sum(sizes.search.values())} | parts
    found = estimate(experiment, config, parts, pace)
    refuse_full_disk(path.parent, found.disk)
    text = experiment_text(config, reasons, request.name, str(path))
    return Chosen(text, tuple(plan_lines(config, reasons, sizes, found, request.hours)))


def _budget(request: Request, items: int) -> dict[str, Any]:
    return {"evaluations": None, "items": request.items or items, "hours": request.hours}


def _trial(request: Request) -> Experiment:
    """The models and all documents of the tasks, by which everything is chosen."""
    scorer = {"slices": TRIAL_SLICES, "tasks": list(request.tasks)}
    models = {"base": request.base, "experts": dict(request.experts)}
    limits = {"budget": {"hours": request.hours}, "rules": dict(request.rules), "submission": request.submission}
    return from_config(prepare_run({"name": request.name, **models, "scorer": scorer, **limits}, None)[0])


def _documents(experiment: Experiment) -> dict[str, int]:
    """Task → the number of its different documents."""
    items = [
        task_of(item) for chunks in experiment.scorer.plan.chunks.values() for chunk in chunks for item in chunk.items
    ]
    return {task: items.count(task) for task in dict.fromkeys(items)}


def _scorer(request: Request, sizes: Sizes) -> dict[str, Any]:
    """The tasks with their own slices, and none for all, unless they are equal."""
    each = {
        task: {"search": sizes.search[task], "select": sizes.select[task], "holdout": sizes.holdout[task]}
        for task in sizes.search
    }
    first = next(iter(each.values()))
    if all(own == first for own in each.values()):
        return {"slices": first, "tasks": [_short(task) for task in request.tasks]}
    return {"tasks": [{**task, **each[str(task["name"])]} for task in request.tasks]}


def _short(task: Mapping[str, Any]) -> Any:
    return task["name"] if set(task) == {"name"} else dict(task)
