"""The list of all faults: the name of each, its table, and the function that injects it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from experiments.faults import candidates, folders, hub, inputs, interruptions, nodes, ray_faults
from experiments.faults.table import CANDIDATES, FOLDERS, HUB, INPUTS, INTERRUPTIONS, ON_RAY, Row
from experiments.faults.trials import Trials


@dataclass(frozen=True)
class Step:
    """Some rows of one table."""

    name: str
    table: str
    run: Callable[[Trials], Iterable[Row]]


def _one(name: str, table: str, run: Callable[[Trials], Row]) -> Step:
    return Step(name, table, lambda trials: [run(trials)])


STEPS = (
    _one("driver.kill", INTERRUPTIONS, interruptions.killed),
    _one("driver.operations", INTERRUPTIONS, interruptions.killed_at_file_operations),
    _one("driver.term", INTERRUPTIONS, interruptions.terminated),
    _one("driver.int", INTERRUPTIONS, interruptions.interrupted),
    _one("driver.stop", INTERRUPTIONS, interruptions.paused),
    _one("driver.torn", INTERRUPTIONS, interruptions.torn),
    _one("driver.full", INTERRUPTIONS, interruptions.full),
    _one("driver.clock", INTERRUPTIONS, interruptions.clock),
    _one("ray.driver", ON_RAY, ray_faults.driver_killed),
    _one("ray.worker", ON_RAY, ray_faults.worker_killed),
    _one("ray.workers", ON_RAY, ray_faults.workers_killed),
    _one("ray.raylet", ON_RAY, ray_faults.raylet_killed),
    _one("ray.gcs", ON_RAY, ray_faults.head_killed),
    _one("ray.stopped", ON_RAY, ray_faults.worker_stopped),
    _one("ray.paused", ON_RAY, ray_faults.driver_stopped),
    Step("ray.nodes", ON_RAY, nodes.lost),
    Step("candidates.failing", CANDIDATES, candidates.failing),
    _one("candidates.memory", CANDIDATES, candidates.small_memory),
    Step("files.readonly", FOLDERS, folders.read_only),
    Step("files.full", FOLDERS, folders.full),
    Step("files.changed", FOLDERS, folders.changed_meanwhile),
    Step("files.cache", FOLDERS, folders.cache),
    Step("files.ledger", FOLDERS, folders.ledger),
    _one("files.mirror", FOLDERS, folders.mirror),
    Step("inputs.refused", INPUTS, inputs.refused_inputs),
    _one("inputs.label", INPUTS, inputs.label_is_a_path),
    Step("hub", HUB, hub.refused),
    _one("inputs.changed", INPUTS, inputs.changed_between_commands),
)


def chosen(names: Sequence[str]) -> list[Step]:
    """The steps with one of these names, or whose names begin with one and a dot; all for no names."""
    unknown = [name for name in names if not any(_is_named(step, name) for step in STEPS)]
    if unknown:
        raise ValueError(f"no such rows: {', '.join(unknown)}; there are {', '.join(step.name for step in STEPS)}")
    return [step for step in STEPS if not names or any(_is_named(step, name) for name in names)]


def _is_named(step: Step, name: str) -> bool:
    return step.name == name or step.name.startswith(f"{name}.")
