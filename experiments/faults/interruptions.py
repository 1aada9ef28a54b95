"""Faults that interrupt the driver of a search on this machine: signals, clocks, disks, a torn ledger."""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from experiments.faults.table import Row
from experiments.faults.trial_run import Ended, Place, limit_file_size, run_child
from experiments.faults.trials import PLAIN, Fault, Setting, Tally, Trials

FILE_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.truncate", "shutil.move")
MOMENTS = "random moments"


def killed(trials: Trials) -> Row:
    """SIGKILL at random moments, up to three times in each search, until as many as are wanted have hit one."""
    return struck(trials, trials.kills).row("SIGKILL of the driver", MOMENTS)


def terminated(trials: Trials) -> Row:
    """SIGTERM."""
    return struck(trials, trials.some(10), number=signal.SIGTERM).row("SIGTERM of the driver", MOMENTS)


def interrupted(trials: Trials) -> Row:
    """Ctrl-C."""
    return struck(trials, trials.some(10), number=signal.SIGINT).row("SIGINT of the driver (Ctrl-C)", MOMENTS)


def struck(trials: Trials, times: int, setting: Setting = PLAIN, number: int = signal.SIGKILL) -> Tally:
    """Searches whose driver gets a signal, up to three times each, until `times` signals have met a running one."""
    seconds, tally = trials.undisturbed(setting).seconds, Tally()

    def fault(place: Place) -> Ended:
        return run_child(place, setting.inject, lambda pid: trials.strike(pid, number, seconds))

    while tally.hits < times and tally.searches < 4 * times + 4:
        trials.search(tally, [fault] * min(times - tally.hits, trials.random.choice((1, 2, 3))), setting)
    return tally


def paused(trials: Trials) -> Row:
    """SIGSTOP for a second at random moments, then SIGCONT."""
    seconds = trials.undisturbed().seconds

    def meddle(pid: int) -> bool:
        is_hit = trials.strike(pid, signal.SIGSTOP, seconds)
        time.sleep(1.0)
        os.kill(pid, signal.SIGCONT)
        return is_hit

    return _each(trials, trials.some(10), "SIGSTOP and SIGCONT", MOMENTS, lambda _: _with(meddle=meddle), 0)


def killed_at_file_operations(trials: Trials) -> Row:
    """SIGKILL before an operation on a file: of the ledger, the recipe, the cache or the export."""
    place = trials.new_place()
    run_child(place, prepare=lambda: _count_events(place.root))
    count = (place.root / "events").stat().st_size
    chosen = sorted(trials.random.sample(range(count), min(trials.kills, count)))
    where = f"{len(chosen)} of {count} operations"

    def fault(number: int) -> Fault:
        return _with(prepare=lambda place: _kill_at(place.root, chosen[number]))

    return _each(trials, len(chosen), "SIGKILL at file operations", where, fault)


def torn(trials: Trials) -> Row:
    """The last line of the ledger is cut at a random byte, as by a power failure."""
    seconds = trials.undisturbed().seconds

    def fault(place: Place) -> Ended:
        ended = run_child(place, meddle=lambda pid: trials.strike(pid, signal.SIGKILL, seconds))
        ledger = place.run / "trials.jsonl"
        if ledger.exists() and (data := ledger.read_bytes()):
            last = len(data.rstrip(b"\n").rpartition(b"\n")[0])
            ledger.write_bytes(data[: trials.random.randint(last + 1, len(data) - 1)])
        return replace(ended, code=ended.code or -1, is_hit=True)  # a search that had ended is repeated too

    # the line that is cut is paid for again, too
    return _each(trials, trials.some(5), "last line of the ledger torn", "random bytes", lambda _: fault, 2)


def full(trials: Trials) -> Row:
    """No file may grow beyond a random size: every place of a full disk."""

    def fault(number: int) -> Fault:
        size = int(2 ** trials.random.uniform(4, 19))
        return _with(prepare=lambda place: limit_file_size(size))

    return _each(trials, trials.some(5), "disk full", "16 bytes to 512 kB free", fault, may_refuse=True)


def clock(trials: Trials) -> Row:
    """The wall clock jumps by up to a year, forwards and backwards, many times in a search."""

    def prepare(place: Place) -> None:
        real, generator = time.time, random.Random(trials.random.random())
        time.time = lambda: real() + generator.uniform(-3e7, 3e7)

    fault = _with(prepare=prepare)
    return _each(trials, trials.some(10), "clock jumps", "both ways, up to a year", lambda _: fault, 0)


def _each(
    trials: Trials,
    times: int,
    name: str,
    where: str,
    fault: Callable[[int], Fault],
    paid: int = 1,
    may_refuse: bool = False,
) -> Row:
    """The row of searches with one fault each."""
    tally = Tally()
    for number in range(times):
        trials.search(tally, [fault(number)], replace(PLAIN, paid=paid, may_refuse=may_refuse))
    return tally.row(name, where)


def _with(prepare: Callable[[Place], None] = lambda place: None, meddle: Callable[[int], bool] | None = None) -> Fault:
    return lambda place: run_child(place, prepare=lambda: prepare(place), meddle=meddle)


def _count_events(root: Path) -> None:
    descriptor = os.open(root / "events", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    _at_events(root, lambda: os.write(descriptor, b"."))


def _kill_at(root: Path, event: int) -> None:
    left = [event]

    def strike() -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    _at_events(root, strike)


def _at_events(root: Path, act: Callable[[], object]) -> None:
    """Call `act` before each change of a file below `root` but the log, and before each sync to the disk."""
    own = (
        str(root / "events"),
        str(root / "attempts"),
        str(root / "child.log"),
        str(root / "models"),
        str(root / "experiment"),
        str(root / "modules"),
    )

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        changes = event in FILE_EVENTS or (event == "open" and len(arguments) > 2 and _writes(arguments[2]))
        if changes and (path := str(arguments[0])).startswith(str(root)) and not path.startswith(own):
            act()

    sync = os.fsync

    def fsync(descriptor: int) -> None:
        act()
        sync(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)


def _writes(flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
