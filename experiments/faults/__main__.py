"""Inject faults into small searches and write docs/reliability.md from what happened.

usage: python -m experiments.faults [--kills N] [--out FILE] [--seed N]

Exits with 1 if a trial did not end as it should.
"""

import argparse
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from evomerge.environment import machine, versions
from experiments.faults.inputs import changed_between_commands, refused_inputs
from experiments.faults.interruptions import Interruptions
from experiments.faults.table import Row, page

log = logging.getLogger("faults")


def measure(root: Path, kills: int, seed: int) -> tuple[list[Row], list[Row]]:
    """The rows of both tables; `kills` searches are killed at random moments, the other kinds are a part of it."""
    trials = Interruptions(root, seed)
    log.info("an undisturbed search takes %.1f s", trials.seconds)
    some, few = max(2, kills // 5), max(2, kills // 10)
    steps = (
        lambda: trials.killed(kills),
        lambda: trials.killed_at_file_operations(kills),
        lambda: trials.killed(few, signal.SIGTERM, "SIGTERM of the driver"),
        lambda: trials.killed(few, signal.SIGINT, "SIGINT of the driver (Ctrl-C)"),
        lambda: trials.paused(few),
        lambda: trials.torn(some),
        lambda: trials.full(some),
        lambda: trials.clock(few),
    )
    rows = []
    for step in steps:
        rows.append(step())
        log.info("%s: %d of %d; %s %s", rows[-1].fault, rows[-1].well, rows[-1].times, rows[-1].seen, rows[-1].wrong)
    return rows, [*refused_inputs(root), changed_between_commands(root)]


def _setting(started: float, kills: int) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    here, libraries, where = machine(), versions(), commit.stdout.strip() or "an unknown commit"
    return (
        f"`python -m experiments.faults --kills {kills}`, measured at {where} on {platform.system()}, "
        f"{here['cpus']} CPU cores, torch {libraries['torch']}, Python {libraries['python']}, "
        f"in {(time.monotonic() - started) / 60:.0f} minutes."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=100, help="searches that are killed at random moments")
    parser.add_argument("--out", type=Path, default=Path("docs/reliability.md"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(1)  # children are forked
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        interruptions, inputs = measure(Path(folder) / "trial", options.kills, options.seed)
    options.out.write_text(page(interruptions, inputs, _setting(started, options.kills)), encoding="utf-8")
    wrong = [f"{row.fault}: {text}" for row in (*interruptions, *inputs) for text in row.wrong]
    for line in wrong:
        log.info("wrong: %s", line)
    return 1 if wrong else 0


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main())
