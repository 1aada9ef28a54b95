"""Faults of a search on Ray: its driver, its workers, and Ray's own processes are killed or stopped."""

import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import psutil

from experiments.faults.table import Row
from experiments.faults.trial_run import Ended, Place, is_running, run_child
from experiments.faults.trials import Setting, Tally, Trials

WORKERS = 2
POOL = {"name": "ray", "workers": WORKERS, "address": "local"}
# A chunk may be in work on one worker when the answer of the other one ends the race of its candidate. It then counts.
COUNTS = ("items_scored",)
ON_RAY = Setting((("pool", POOL),), paid=WORKERS, uncompared=COUNTS)
IMPATIENT = Setting((("pool", POOL | {"timeout": 15}),), paid=WORKERS, uncompared=COUNTS)
ACTORS_LIMIT, ORPHANS_LIMIT = 30.0, 120.0  # seconds in which actors, and all processes of Ray, must have ended
FEW = 40  # one of so many kills of the driver is one of these rows

Processes = list[psutil.Process]
Choose = Callable[[int], Processes]


def driver_killed(trials: Trials) -> Row:
    """SIGKILL of the driver; its actors must end soon, and Ray's other processes in the end."""
    return _struck(trials, "SIGKILL of the driver", lambda pid: [psutil.Process(pid)], ON_RAY)


def worker_killed(trials: Trials) -> Row:
    """SIGKILL of one of two workers."""
    return _struck(trials, "SIGKILL of a worker", lambda pid: actors(pid)[:1], ON_RAY)


def workers_killed(trials: Trials) -> Row:
    """SIGKILL of both workers at once."""
    return _struck(trials, "SIGKILL of all workers", actors, ON_RAY)


def raylet_killed(trials: Trials) -> Row:
    """SIGKILL of the raylet."""
    return _struck(trials, "SIGKILL of the raylet", lambda pid: _named(pid, "raylet"), _refusing(ON_RAY))


def head_killed(trials: Trials) -> Row:
    """SIGKILL of the GCS."""
    return _struck(trials, "SIGKILL of the GCS", lambda pid: _named(pid, "gcs_server"), _refusing(ON_RAY))


def worker_stopped(trials: Trials) -> Row:
    """SIGSTOP of a worker, which never continues: it must be replaced."""
    return _struck(trials, "SIGSTOP of a worker", lambda pid: actors(pid)[:1], IMPATIENT, signal.SIGSTOP)


def driver_stopped(trials: Trials) -> Row:
    """SIGSTOP of the driver for ten seconds, then SIGCONT."""
    seconds, tally = trials.undisturbed(ON_RAY).seconds, Tally()

    def meddle(pid: int) -> bool:
        is_hit = trials.strike(pid, signal.SIGSTOP, seconds)
        if is_hit:
            time.sleep(10.0)
            psutil.Process(pid).send_signal(signal.SIGCONT)
        return is_hit

    while tally.searches < trials.some(FEW):
        trials.search(tally, [lambda place: run_child(place, meddle=meddle)], ON_RAY)
    return tally.row("SIGSTOP of the driver, SIGCONT after 10 s", "random moments")


def _refusing(setting: Setting) -> Setting:
    return replace(setting, may_refuse=True)


def _struck(trials: Trials, name: str, choose: Choose, setting: Setting, number: int = signal.SIGKILL) -> Row:
    """Searches that are struck at random moments, until as many as are wanted were running then."""
    seconds, tally, times = trials.undisturbed(setting).seconds, Tally(), trials.some(FEW)
    family, slowest = set[psutil.Process](), 0.0

    def meddle(pid: int) -> bool:
        time.sleep(trials.random.uniform(0, seconds))
        victims = _wait_for(pid, lambda: choose(pid))
        family.update(_descendants(pid))
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.send_signal(number)
        return bool(victims)

    def fault(place: Place) -> Ended:
        nonlocal slowest
        ended = run_child(place, meddle=meddle)
        slowest = max(slowest, _seconds_until_ended([p for p in family if _is_actor(p)], ACTORS_LIMIT))
        return ended

    while tally.hits < times and tally.searches < 2 * times + 2:
        trials.search(tally, [fault], setting)
    if slowest > ACTORS_LIMIT or _seconds_until_ended(family, ORPHANS_LIMIT) > ORPHANS_LIMIT:
        tally.fail([f"processes are left: {[process.name() for process in family if _lives(process)]}"])
    tally.notes.append(f"no worker lives longer than {max(1.0, slowest):.0f} s after the command")
    return tally.row(f"{name} (Ray)", "random moments")


def _wait_for(pid: int, choose: Callable[[], Processes]) -> Processes:
    """The chosen processes as soon as there are any; none if the search has ended before."""
    while is_running(pid):
        with suppress(psutil.Error):
            if found := choose():
                return found
        time.sleep(0.05)
    return []


def actors(pid: int) -> Processes:
    """The workers of a search."""
    return [process for process in _descendants(pid) if _is_actor(process)]


def _named(pid: int, name: str) -> Processes:
    return [process for process in _descendants(pid) if process.name() == name]


def _is_actor(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any(part.startswith("ray::Actor") for part in process.cmdline())
    return False


def _descendants(pid: int) -> Processes:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _seconds_until_ended(processes: Iterable[psutil.Process], limit: float) -> float:
    """How long some of the processes live on; a little more than `limit` if they do not end in this time."""
    start = time.monotonic()
    while time.monotonic() - start <= limit:
        if not any(_lives(process) for process in processes):
            break
        time.sleep(0.1)
    return time.monotonic() - start


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
