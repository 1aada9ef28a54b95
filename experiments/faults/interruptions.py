"""Faults that interrupt a search: after each, the same command is repeated until it ends by itself."""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from experiments.faults.observed import Outcome, outcome, paid_twice, problems, valid_recipe
from experiments.faults.table import Row
from experiments.faults.trial_run import CRASHED, REFUSED, Ended, Place, limit_file_size, new_place, run_child

MOST_REPEATS = 5  # of a command after the last fault
FILE_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.truncate", "shutil.move")
Fault = Callable[[Place], Ended]


class Interruptions:
    """Injects faults into searches in `root` and compares each with an undisturbed one."""

    def __init__(self, root: Path, seed: int) -> None:
        self._root, self._random = root, random.Random(seed)
        place = new_place(root)
        ended = run_child(place)
        if ended.code:
            raise RuntimeError(f"the undisturbed search fails: {ended}")
        self.reference: Outcome = outcome(place)
        place = new_place(root)
        self.seconds = run_child(place).seconds
        if problems(place, self.reference, 0):
            raise RuntimeError(f"two undisturbed searches differ: {problems(place, self.reference, 0)}")

    def killed(self, times: int, stop: int = signal.SIGKILL, name: str = "SIGKILL of the driver") -> Row:
        """A signal at random moments; every second search gets a second one."""

        def fault(place: Place) -> Ended:
            return run_child(place, meddle=lambda pid: self._strike(pid, stop))

        return self._repeat(name, "random moments", times, lambda _: [fault] * self._random.choice((1, 2)))

    def paused(self, times: int) -> Row:
        """SIGSTOP for a second at random moments, then SIGCONT."""

        def meddle(pid: int) -> None:
            self._strike(pid, signal.SIGSTOP)
            time.sleep(1.0)
            os.kill(pid, signal.SIGCONT)

        return self._repeat("SIGSTOP and SIGCONT", "random moments", times, lambda _: [_with(meddle=meddle)], kills=0)

    def killed_at_file_operations(self, most: int) -> Row:
        """SIGKILL before an operation on a file: of the ledger, the recipe, the cache or the export."""
        place = new_place(self._root)
        run_child(place, prepare=lambda: _count_events(place.root))
        count = (place.root / "events").stat().st_size
        chosen = sorted(self._random.sample(range(count), min(most, count)))

        def faults(number: int) -> list[Fault]:
            return [_with(prepare=lambda place: _kill_at(place.root, chosen[number]))]

        return self._repeat("SIGKILL at file operations", f"{len(chosen)} of {count} operations", len(chosen), faults)

    def torn(self, times: int) -> Row:
        """The last line of the ledger is cut at a random byte, as by a power failure."""

        def fault(place: Place) -> Ended:
            ended = run_child(place, meddle=lambda pid: self._strike(pid, signal.SIGKILL))
            ledger = place.run / "trials.jsonl"
            if ledger.exists() and (data := ledger.read_bytes()):
                last = len(data.rstrip(b"\n").rpartition(b"\n")[0])
                ledger.write_bytes(data[: self._random.randint(last + 1, len(data) - 1)])
            return replace(ended, code=ended.code or -1)  # a search that had ended is repeated too

        # the line that is cut is paid for again, too
        return self._repeat("last line of the ledger torn", "random bytes", times, lambda _: [fault], kills=2)

    def full(self, times: int) -> Row:
        """No file may grow beyond a random size: every place of a full disk."""

        def faults(number: int) -> list[Fault]:
            size = int(2 ** self._random.uniform(4, 19))
            return [_with(prepare=lambda place: limit_file_size(size))]

        return self._repeat("disk full", "16 bytes to 512 kB free", times, faults)

    def clock(self, times: int) -> Row:
        """The wall clock jumps by up to a year, forwards and backwards, many times in a search."""

        def prepare(place: Place) -> None:
            real, generator = time.time, random.Random(self._random.random())
            time.time = lambda: real() + generator.uniform(-3e7, 3e7)

        return self._repeat(
            "clock jumps", "both ways, up to a year", times, lambda _: [_with(prepare=prepare)], kills=0
        )

    def _strike(self, pid: int, number: int) -> None:
        time.sleep(self._random.uniform(0, self.seconds))
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return

    def _repeat(self, name: str, where: str, times: int, faults: Callable[[int], list[Fault]], kills: int = 1) -> Row:
        wrong: list[str] = []
        most, hit, lines = 0, 0, dict[str, int]()
        for number in range(times):
            place, done, struck = new_place(self._root), False, 0
            for fault in faults(number):
                ended = fault(place)
                struck += ended.code != 0
                done = ended.code == 0
                wrong += _unexpected(ended, place)
                if ended.code in REFUSED:
                    lines[_kind(ended.line)] = lines.get(_kind(ended.line), 0) + 1
                if done:
                    break
            for _ in range(MOST_REPEATS):
                done = done or run_child(place).code == 0
            hit += struck > 0
            wrong += problems(place, self.reference, kills * max(1, struck)) if done else ["the repeated command fails"]
            most = max(most, paid_twice(place) if done else 0)
        return Row(name, where, times, times - len(wrong), _words(hit, most, lines), tuple(wrong))


def _with(prepare: Callable[[Place], None] = lambda place: None, meddle: Callable[[int], None] | None = None) -> Fault:
    return lambda place: run_child(place, prepare=lambda: prepare(place), meddle=meddle)


def _unexpected(ended: Ended, place: Place) -> Iterator[str]:
    if ended.code == CRASHED:
        yield f"a traceback: {ended.line}"
    if not valid_recipe(place.run):
        yield "half a recipe"


def _kind(line: str) -> str:
    return line.rpartition(": ")[2].split(";")[0]


def _words(hit: int, most: int, lines: dict[str, int]) -> str:
    said = f"; refused with one line {sum(lines.values())} times" if lines else ""
    return f"{hit} hit a running search; at most {most} chunks paid twice in a search{said}"


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
