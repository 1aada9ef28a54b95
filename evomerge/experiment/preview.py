"""The description of a search that `check` prints: models, placement, space, budget, tasks and the run's folder."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge import optimizers
from evomerge.errors import RunError
from evomerge.experiment.experiment import Experiment, from_config
from evomerge.experiment.generation_engine import recorded_engine
from evomerge.experiment.resume import fixed_part
from evomerge.experiment.router_step import check_routers
from evomerge.experiment.shown_vocabulary import vocabulary_lines
from evomerge.ledger import refuse_other_search
from evomerge.merging import PREFETCH_DEPTH, MemoryPlan, choose_placement, flow_need, memory_need, plan_memory
from evomerge.models import is_complete, resolve_device
from evomerge.paths import LEDGER
from evomerge.routing import has_routers
from evomerge.rules import refuse_broken, verdict_lines
from evomerge.scoring import SLICES, Plan, task_of
from evomerge.searching import ledger_header, uses_races
from evomerge.space import FlowSpace
from evomerge.terminal import size

SHOWN = 6


def describe(config: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """The lines of the description; no weight is read. A problem raises the error that the search would raise."""
    experiment = from_config(config, folder)
    yield from verdict_lines(experiment.config.rules.name, experiment.verdicts)
    refuse_broken(experiment.config.rules.name, experiment.verdicts)
    yield from _models(experiment)
    yield from vocabulary_lines(experiment)
    yield from _screening(experiment)
    yield from _placement(experiment)
    yield from _flow(experiment)
    yield from _routers(experiment)
    yield from _search(experiment)
    yield from _scoring(experiment)
    if experiment.submission:
        yield f"pack      {experiment.submission}"
    yield from _folder(experiment, config, folder)


def _models(experiment: Experiment) -> Iterator[str]:
    family = experiment.family
    shapes = family.base.skeleton.parameters
    stacks = ", ".join(f"{layers} layers in {stack}" for stack, layers in family.layout.stacks.items())
    count = f"{family.base.parameter_count / 1e6:.1f}M parameters"
    yield f"base      {experiment.base}: {count}, {len(shapes)} tensors, {stacks}"
    for label, ref in experiment.experts.items():
        maker = family.trained_on(ref)
        origin = f", an adapter trained on {maker}" if maker else ""
        yield f"expert    {label}: {ref}, {len(family.touched(ref))} tensors{origin}"
    for name, each in family.dequantised.items():
        made = each.origin
        what = f"{name}: {made.format} as {made.dtype}, {size(made.nbytes)} in {each.folder}"
        free = f"; {size(shutil.disk_usage(each.folder).free)} of the disk are free"
        yield f"dequant.  {what}: {'is there' if is_complete(each.folder) else f'will be made once{free}'}"


def _routers(experiment: Experiment) -> Iterator[str]:
    """What is done with the routers of a mixture of experts."""
    fitted = experiment.config.finalise.calibrate_routers
    if fitted:
        check_routers(experiment)
    if has_routers(experiment.family):
        what = "the base's" if experiment.config.space.get("router") == "keep" else "merged like other tensors"
        after = "; fitted to items after the search, and kept if better" if fitted else ""
        yield f"routers   of a mixture of experts: {what}{after}"


def _screening(experiment: Experiment) -> Iterator[str]:
    screen, count = experiment.config.screen, len(experiment.experts)
    if experiment.needs_screening:
        yield f"screen    {count} experts are scored alone and in some merges; the search merges at most {screen.most}"
        yield "          until then, space, placement and baselines below are those of all experts"


def _placement(experiment: Experiment) -> Iterator[str]:
    """Where the experts will be held; the workers of a cluster decide by the memory of their own machines."""
    own = memory_need(experiment.family, experiment.config.model.dtype)
    held = f"{size(own.sources)} of base and experts"
    if experiment.pool_name != "local":
        yield f"placement {held}; each worker plans with its own memory"
        return
    device, model = resolve_device(experiment.config.model.device), experiment.config.model
    limit = experiment.gpu_bytes
    more = experiment.more_bytes
    found = choose_placement(
        model.placement, experiment.family, device, model.dtype, loaded=False, limit=limit, more=more
    )
    yield from _memory(plan_memory(model.placement, experiment.family, device, model.dtype, limit=limit, more=more))
    if device == "cpu":
        yield f"placement {found.mode}: {held} in the page cache, which all workers share"
        return
    where = {"device": f"all on {device}", "pinned": "in pinned host memory, prefetched", "mmap": "in the page cache"}
    staged = f", at most {size(PREFETCH_DEPTH * own.largest)} of them on {device} at once" * (found.mode != "device")
    yield f"placement {found.mode}: {held} {where[found.mode]}{staged}"


def _memory(plan: MemoryPlan | None) -> Iterator[str]:
    """What is on the GPU, in pinned host memory and in files."""
    if plan is None:
        return
    needed = int(replace(plan.need, model=plan.need.model + plan.more).device_size(plan.mode))
    yield f"memory    {size(needed)} of {size(plan.total)} of the GPU, activations included"
    what = "base and experts" if plan.mode == "device" else "prefetched tensors"
    more = f"{size(plan.more)} for vLLM or resident layers, " * bool(plan.more)
    parts = f"{size(plan.need.model)} of live model, {more}{size(plan.sources_on_device)} of {what}"
    yield f"          GPU: {parts}; {size(max(0, plan.free))} left for activations and KV caches"
    where = {"pinned": "pinned host memory", "mmap": "files, read through the page cache"}
    if plan.mode != "device":
        yield f"          {where[plan.mode]}: {size(plan.need.sources)} of base and experts"


def _flow(experiment: Experiment) -> Iterator[str]:
    """The layers that stay in memory for a flow, beside the live model, in each worker."""
    space = experiment.space
    if isinstance(space, FlowSpace):
        family, dtype = experiment.family, experiment.config.model.dtype
        kept, scaled = flow_need(family, dtype, len(space.models), space.max_layers, space.outputs)
        layers = f"{len(space.models)} × {space.layers} layers resident ({size(kept)})"
        scales = f", and at most {size(scaled)} of scaled {' and '.join(space.outputs)}" if scaled else ""
        yield f"flow      {layers}{scales}; at most {space.max_layers} layers in a candidate"


def _search(experiment: Experiment) -> Iterator[str]:
    space = experiment.space
    experiment.optimizer()
    names = [coordinate.name for coordinate in space.coordinates()]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    yield f"space     {space.method}, {space.dimensions} dimensions: {', '.join(names[:SHOWN])}{more}"
    yield f"baselines {', '.join(experiment.baselines)}"
    budget, race = experiment.config.budget, experiment.config.race
    proposes = optimizers.proposes_candidates(experiment.config.chosen("optimizer", "cma"))
    cost = budget.describe_cost(len(experiment.scorer.plan.items("search"))) if proposes else "for one descent"
    yield f"budget    {budget}: {cost}"
    yield f"          then about {experiment.reserve()} items of select and holdout"
    if items := experiment.item_losses:
        slopes = ", ".join(space.slope_genes)
        yield f"descent   {len(items)} items of the search slice have a loss; genes with a slope: {slopes}"
    if experiment.config.search.is_asynchronous:
        yield "mode      asynchronous: candidates are proposed while others are scored"
    raced = uses_races(experiment.objective, race)
    why = "" if experiment.objective.single_score else ": a front, floors or a corpus-level metric need every item"
    wider = " or more, as the budget allows" if race.can_widen and budget.limits_items else ""
    yield f"race      {race}{wider}" if raced else f"race      off{why}"


def _scoring(experiment: Experiment) -> Iterator[str]:
    plan = experiment.scorer.plan
    yield f"tasks     {', '.join(f'{task} × {weight:g}' for task, weight in plan.weights.items())}"
    if functions := experiment.scorer.functions:
        yield f"scores    by {', '.join(functions)}, tried on sample answers"
    yield f"objective {experiment.objective}"
    for name in SLICES:
        batches = [found for chunk in plan.chunks[name] if (found := experiment.work[chunk.id].batches)]
        tokens = f", {sum(found.tokens for found in batches)} tokens a candidate" * bool(batches)
        yield f"slice     {name}: {len(plan.items(name))} items in {len(plan.chunks[name])} chunks{tokens}"
    if experiment.generation:
        engine = experiment.serving
        more = f": {size(engine.weight_bytes)} of weights, {size(engine.cache_bytes)} of KV cache" if engine else ""
        yield f"answers   by {experiment.generation}{more}"
    for item in _first_items(plan):
        lines = experiment.scorer.show_item(item)
        yield f"item      {lines[0]}"
        yield from (f"          {line}" for line in lines[1:])
    if experiment.used_items:
        count = experiment.scorer.withheld
        yield f"init      was chosen by {count} of the documents; select and holdout are drawn from the others"


def _first_items(plan: Plan) -> list[str]:
    """An item of each task, of the search slice where it has one."""
    items = [item for name in SLICES for item in plan.items(name)]
    return list({task_of(item): item for item in reversed(items)}.values())[::-1]


def _folder(experiment: Experiment, config: Mapping[str, Any], folder: Path) -> Iterator[str]:
    nearest = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    if not nearest.is_dir():
        raise RunError(f"{nearest}: a file where the run's folder should be; move it")
    if (folder / LEDGER).is_file():
        refuse_other_search(
            folder / LEDGER, ledger_header(experiment.scorer, fixed_part(config)) | recorded_engine(experiment)
        )
        yield f"run       {folder}: will be resumed"
    else:
        yield f"run       {folder}: new"
