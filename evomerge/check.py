"""`check`: everything that can be known before weights are read, in a few lines."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import RunError
from evomerge.experiment import Experiment, fixed_part, from_config
from evomerge.ledger import refuse_other
from evomerge.scorers import SLICES
from evomerge.search import header

SHOWN = 6


def check(config: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Lines that describe the search; the first problem is raised as the error that the search would raise."""
    experiment = from_config(config)
    yield from _models(experiment)
    yield from _search(experiment)
    yield from _scoring(experiment)
    yield from _folder(experiment, config, folder)


def _models(experiment: Experiment) -> Iterator[str]:
    family = experiment.family
    shapes = family.base.skeleton.parameters
    total = 0
    for shape in shapes.values():
        size = 1
        for length in shape:
            size *= length
        total += size
    stacks = ", ".join(f"{layers} layers in {stack}" for stack, layers in family.layout.stacks.items())
    yield f"base      {experiment.base}: {total / 1e6:.1f}M parameters, {len(shapes)} tensors, {stacks}"
    for label, ref in experiment.experts.items():
        maker = family.trained_on(ref)
        origin = f", an adapter trained on {maker}" if maker else ""
        yield f"expert    {label}: {ref}, {len(family.touched(ref))} tensors{origin}"


def _search(experiment: Experiment) -> Iterator[str]:
    space = experiment.space
    experiment.optimizer()
    names = space.names()
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    yield f"space     {space.method}, {space.dimensions} dimensions: {', '.join(names[:SHOWN])}{more}"
    yield f"baselines {', '.join(experiment.baselines)}"
    yield f"budget    {experiment.budget.evaluations} evaluations"


def _scoring(experiment: Experiment) -> Iterator[str]:
    plan = experiment.scorer.plan
    yield f"tasks     {', '.join(f'{task} × {weight:g}' for task, weight in plan.weights.items())}"
    for name in SLICES:
        yield f"slice     {name}: {len(plan.items(name))} items in {len(plan.chunks[name])} chunks"


def _folder(experiment: Experiment, config: Mapping[str, Any], folder: Path) -> Iterator[str]:
    nearest = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    if not nearest.is_dir():
        raise RunError(f"{nearest}: a file where the run's folder should be; move it")
    if (folder / "trials.jsonl").is_file():
        refuse_other(folder / "trials.jsonl", header(experiment.scorer, fixed_part(config)))
        yield f"run       {folder}: will be resumed"
    else:
        yield f"run       {folder}: new"
