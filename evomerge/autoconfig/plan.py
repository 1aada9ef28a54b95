"""The plan that is shown before a search starts: what was chosen, and what it takes in items, time, memory and disk."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.autoconfig.pace import Pace
from evomerge.autoconfig.sizes import Sizes
from evomerge.errors import ConfigError
from evomerge.experiment import Experiment
from evomerge.merging import memory_need
from evomerge.terminal import duration

LEDGER_BYTES = 50e6  # an upper bound for ledger, recipe and report of such a search
TABLES_FACTOR = 8  # bytes of prepared tables for each weight of a model, where a method has tables of dense experts


@dataclass(frozen=True)
class Estimate:
    """Items by what they are scored for, seconds at the measured pace, and bytes of memory and disk."""

    parts: Mapping[str, int]
    seconds: float
    memory: int
    disk: int


def estimate(experiment: Experiment, config: Mapping[str, Any], parts: Mapping[str, int], pace: Pace) -> Estimate:
    """What the whole command takes for so many items; `config` is the chosen one."""
    need = memory_need(experiment.family, experiment.config.model.dtype)
    rows = config["baselines"]["methods"].values()
    tables = TABLES_FACTOR * experiment.family.base.parameter_count * ("tsv_m" in rows)
    seconds = sum(parts.values()) / (pace.items_per_second * config["pool"].get("workers", 1)) + pace.submission
    return Estimate(parts, seconds, need.model + need.sources, round(LEDGER_BYTES + tables))


def refuse_full_disk(folder: Path, needed: int) -> None:
    """ConfigError where the disk of the run's folder has not so many bytes free."""
    parent = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise ConfigError(
            f"{folder}: {free / 1e9:.2f} GB are free and {needed / 1e9:.2f} GB are needed; give another --out"
        )


def plan_lines(
    config: Mapping[str, Any], reasons: Mapping[str, str], sizes: Sizes, found: Estimate, hours: float | None
) -> Iterator[str]:
    """The choices with their reasons, then the estimate, and a line where `hours` are not enough for it."""
    method = config["method"]
    shown = {
        "method": method if isinstance(method, str) else " or ".join(method),
        "space": config["space"]["schedule"],
        "optimizer": config["optimizer"]["name"],
    }
    for key, value in shown.items():
        yield f"{key:10}{value}: {reasons[key]}"
    yield f"{'model':10}{config['model']['dtype']}: {reasons['model']}"
    yield f"{'pool':10}{config['pool']['name']}: {reasons['pool']}"
    for task in sizes.search:
        parts = f"{sizes.search[task]} search, {sizes.select[task]} select, {sizes.holdout[task]} holdout"
        yield f"{'task':10}{task}: {parts}"
    parts = ", ".join(f"{count} {name}" for name, count in found.parts.items())
    yield f"{'items':10}{sum(found.parts.values())}: {parts}"
    needs = f"{found.memory / 1e9:.1f} GB of memory, {found.disk / 1e9:.1f} GB of disk"
    yield f"{'estimate':10}about {duration(found.seconds)}; {needs}"
    if hours is not None and found.seconds > 3600 * hours:
        yield f"{'note':10}the smallest useful slices need more than {hours:g} hours here: the search may end early"
