"""Faults of the disk and of files that a search has written: read-only, full, damaged, changed meanwhile."""

import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file

from experiments.faults import mounts
from experiments.faults.table import Row
from experiments.faults.trial_run import Ended, Place, run_child, wait_for_lines
from experiments.faults.trials import PLAIN, Setting, Tally, Trials, not_run

MAY_REFUSE = replace(PLAIN, may_refuse=True)
PLACES: dict[str, Callable[[Place], Path]] = {
    "the run's folder": lambda place: place.run,
    "the cache": lambda place: place.cache,
    "the folder of the merged model": lambda place: place.merged.parent,
}
LINES = 60  # of the ledger of a search, at most
ROOM = 1 << 28  # bytes of a disk that is large enough


def read_only(trials: Trials) -> Iterator[Row]:
    """Each folder that is written to is mounted read-only from the start, for the first command."""
    for name, folder in PLACES.items():
        if reason := mounts.refusal():
            yield not_run("read-only", name, reason)
            continue
        tally = Tally()
        trials.search(tally, [lambda place, at=folder: _within(mounts.read_only(at(place)), place)], MAY_REFUSE)
        yield tally.row("read-only", f"{name} (a read-only mount)")


def full(trials: Trials) -> Iterator[Row]:
    """Each folder that is written to is a file system of a random size; then it grows."""
    for name, folder in PLACES.items():
        if reason := mounts.refusal():
            yield not_run("disk full", name, reason)
            continue
        tally = Tally()
        for _ in range(trials.some(20)):
            _on_small_disk(trials, tally, folder)
        yield tally.row("disk full", f"{name} (a file system of 4 to 256 kB)")


def _on_small_disk(trials: Trials, tally: Tally, folder: Callable[[Place], Path]) -> None:
    root, size = Place(trials.root), 4096 * 2 ** trials.random.randint(0, 6)
    disk = mounts.small_disk(folder(root), size)

    def fault(place: Place) -> Ended:
        disk.__enter__()
        ended = run_child(place)
        mounts.grow(folder(place), ROOM)
        return replace(ended, is_hit=True)

    try:
        trials.search(tally, [fault], MAY_REFUSE)
    finally:
        disk.__exit__(None, None, None)


def _within(context: AbstractContextManager[None], place: Place) -> Ended:
    with context:
        return replace(run_child(place), is_hit=True)


def cache(trials: Trials) -> Iterator[Row]:
    """Files of the cache are damaged between two searches that use it."""
    for name, damage in DAMAGES.items():
        tally = Tally()

        def fault(place: Place, damage: Callable[[Path, random.Random], None] = damage) -> Ended:
            run_child(place)
            shutil.rmtree(place.run)
            shutil.rmtree(place.merged)
            (place.root / "attempts").unlink()
            for path in _files(place.cache):
                damage(path, trials.random)
            return Ended(-1, 0.0, is_hit=True)

        trials.search(tally, [fault], PLAIN)
        yield tally.row("cache damaged", f"every file {name}")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _truncate(path: Path, generator: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: generator.randrange(path.stat().st_size)] if path.stat().st_size else b"")


def _flip(path: Path, generator: random.Random) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    if data:
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    path.write_bytes(bytes(data))


def _fill_with_nan(path: Path, generator: random.Random) -> None:
    if path.suffix == ".safetensors":
        save_file({name: _nan_like(tensor) for name, tensor in load_file(path).items()}, path)
    else:
        path.write_bytes(b"\xff" * path.stat().st_size)


def _nan_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor


def _empty(path: Path, generator: random.Random) -> None:
    path.write_bytes(b"")


def _tear(path: Path, generator: random.Random) -> None:
    path.write_bytes(path.read_bytes() + b'{"op_code":\n')


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "truncated": _truncate,
    "with one bit flipped": _flip,
    "filled with NaN": _fill_with_nan,
    "empty": _empty,
}


def ledger(trials: Trials) -> Iterator[Row]:
    """The ledger of a search that was killed gets lines twice, in another order, or of another search."""
    seconds = trials.undisturbed().seconds
    for name, edit in EDITS.items():
        tally = Tally()

        def fault(place: Place, edit: Callable[[list[bytes], random.Random], list[bytes]] = edit) -> Ended:
            ended = run_child(place, meddle=lambda pid: trials.strike(pid, signal.SIGKILL, seconds))
            path = place.run / "trials.jsonl"
            if path.exists():
                header, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
                path.write_bytes(b"".join([header, *edit(lines, trials.random)]))
            return replace(ended, code=ended.code or -1, is_hit=True)

        for _ in range(trials.some(50)):
            trials.search(tally, [fault], replace(PLAIN, edited=True))
        yield tally.row(f"ledger with {name}", "after a SIGKILL")


def _twice(lines: list[bytes], generator: random.Random) -> list[bytes]:
    return lines + generator.sample(lines, len(lines) // 2)


def _reordered(lines: list[bytes], generator: random.Random) -> list[bytes]:
    return generator.sample(lines, len(lines))


def _foreign(lines: list[bytes], generator: random.Random) -> list[bytes]:
    return [line for old in lines for line in (old, old.replace(b'"chunk":"s', b'"chunk":"of-another-search/s'))]


EDITS: dict[str, Callable[[list[bytes], random.Random], list[bytes]]] = {
    "half of the lines twice": _twice,
    "its lines in another order": _reordered,
    "lines of another search": _foreign,
}


def mirror(trials: Trials) -> Row:
    """The Optuna journal of a search that was killed is cut or overwritten: it is written anew from the ledger."""
    path = trials.root / "optuna.log"
    optimizer = {"name": "cma", "population": 4, "mirror": str(path)}
    setting, tally = Setting((("optimizer", optimizer),)), Tally()
    seconds = trials.undisturbed(setting).seconds
    expected = _trials_in(path)

    def fault(place: Place) -> Ended:
        ended = run_child(place, meddle=lambda pid: trials.strike(pid, signal.SIGKILL, seconds))
        if path.exists():
            trials.random.choice([_truncate, _empty, _tear])(path, trials.random)
        return replace(ended, code=ended.code or -1, is_hit=True)

    for _ in range(trials.some(20)):
        trials.search(tally, [fault], setting)
        tally.fail([] if _trials_in(path) == expected else [f"the journal does not hold {expected} trials"])
    return tally.row("optuna journal damaged", "cut, emptied or with a line that is no JSON, after a SIGKILL")


def _trials_in(path: Path) -> int:
    """The number of trials of the one study in an Optuna journal; -1 if it cannot be read."""
    program = (
        "import sys, optuna; from optuna.storages import journal, JournalStorage;"
        "storage = JournalStorage(journal.JournalFileBackend(sys.argv[1]));"
        "print(sum(len(storage.get_all_trials(study._study_id)) for study in storage.get_all_studies()))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else -1


def changed_meanwhile(trials: Trials) -> Iterator[Row]:
    """An expert's file is replaced, overwritten or removed while the search runs; then it is restored."""
    for name, change in CHANGES.items():
        tally = Tally()

        def fault(place: Place, change: Callable[[Path], None] = change) -> Ended:
            weights = place.models / "last" / "model.safetensors"
            kept = weights.read_bytes()

            def meddle(pid: int) -> bool:
                is_hit = wait_for_lines(place, pid, trials.random.randint(1, LINES))
                change(weights)
                return is_hit

            ended = run_child(place, meddle=meddle)
            weights.unlink(missing_ok=True)
            weights.write_bytes(kept)
            return replace(ended, code=ended.code or -1)

        times = trials.some(20)
        while tally.hits < times and tally.searches < 4 * times:
            trials.search(tally, [fault], MAY_REFUSE)
        yield tally.row(f"an expert's file {name}", "after a random line of the ledger; then restored")


def _replace(weights: Path) -> None:
    """As a download does: another file under the same name."""
    new = weights.with_suffix(".new")
    new.write_bytes(_shifted(weights))
    new.replace(weights)


def _overwrite(weights: Path) -> None:
    """Other numbers in the same file."""
    data = _shifted(weights)
    with weights.open("r+b") as file:
        file.write(data)


def _shifted(weights: Path) -> bytes:
    return save({name: tensor + 0.01 for name, tensor in load_file(weights).items()})


CHANGES: dict[str, Callable[[Path], None]] = {
    "replaced by another one": _replace,
    "overwritten in place": _overwrite,
    "removed": Path.unlink,
}
