"""Faults of some candidates: weights that are not finite, and memory that runs out while they are merged or scored.

The search must go on. It is killed and repeated, too, and compared with a search of the same failures that was not.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from evomerge.merging import Materializer
from evomerge.scoring.engine import memory
from experiments.faults.interruptions import struck
from experiments.faults.table import Row
from experiments.faults.trials import Setting, Trials

ONE_IN = 4  # candidates have the fault
LARGEST = 4  # items of a batch that fit into the memory


def failing(trials: Trials) -> Iterator[Row]:
    """A quarter of all recipes cannot be built."""
    for name, fail in FAILURES.items():
        tally = struck(trials, trials.some(20), Setting(inject=lambda fail=fail: _inject(fail)))
        reasons = _failures(trials.root / "run" / "trials.jsonl")
        if not reasons:
            tally.fail(["no candidate has failed"])
        tally.notes.insert(0, f"{len(reasons)} candidates have failed: `{reasons[0][:120] if reasons else ''}`")
        yield tally.row(name, f"one of {ONE_IN} recipes; SIGKILL at random moments")


def small_memory(trials: Trials) -> Row:
    """Batches of more than a few items run out of the memory of a GPU."""
    same = trials.undisturbed().outcome
    setting = Setting(inject=_refuse_large_batches)
    tally = struck(trials, trials.some(20), setting)
    tally.fail([] if trials.undisturbed(setting).outcome == same else ["another result than with large batches"])
    return tally.row("CUDA out of memory in a forward pass", f"batches of more than {LARGEST} items")


def _inject(fail: Callable[[Any], torch.Tensor]) -> None:
    """Let every second tensor of some recipes fail."""
    write, write_tensor = Materializer.write, Materializer._write
    fails = [False, False]  # whether this recipe does, and whether the next tensor does

    def written(self: Materializer, recipe: Any, model: Any) -> None:
        fails[:] = [int(recipe.key(), 16) % ONE_IN == 0, False]
        write(self, recipe, model)

    def tensor_written(self: Materializer, merge: Any, sources: Any, place: Any) -> torch.Tensor:
        flag = write_tensor(self, merge, sources, place)
        fails[1] = fails[0] and not fails[1]
        return fail(place) if fails[1] else flag

    Materializer.write = written  # type: ignore[method-assign]
    Materializer._write = tensor_written  # type: ignore[method-assign]


def _fill(place: Any, value: float) -> torch.Tensor:
    place.copy_(torch.full(tuple(place.shape), value))
    return torch.tensor(torch.nan)


def _raise(error: Exception) -> torch.Tensor:
    raise error


FAILURES: dict[str, Callable[[Any], torch.Tensor]] = {
    "a candidate with NaN": lambda place: _fill(place, torch.nan),
    "a candidate with infinite weights": lambda place: _fill(place, torch.inf),
    "host out of memory (MemoryError) while a candidate is merged": lambda place: _raise(MemoryError("no memory")),
    "CUDA out of memory while a candidate is merged": lambda place: _raise(torch.OutOfMemoryError("CUDA")),
}


def _refuse_large_batches() -> None:
    fits = memory._fits

    def small_fits(work: Callable[[Any], None], batch: Any) -> bool:
        def tried(items: Any) -> None:
            if len(items) > LARGEST:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
            work(items)

        return fits(tried, batch)

    memory._fits = small_fits


def _failures(ledger: Path) -> list[str]:
    """The reasons of the failed candidates."""
    lines = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]
    return [line["error"] for line in {line["key"]: line for line in lines if "error" in line}.values()]
