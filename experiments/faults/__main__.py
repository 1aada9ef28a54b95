"""Inject faults into small searches and write docs/reliability.md from what happened.

usage: python -m experiments.faults [--rows NAME,NAME] [--kills N] [--out FILE] [--seed N]
       python -m experiments.faults --add PART.json PART.json … [--out FILE]

The rows are kept beside the page, in a file of the same name that ends in .json. A run of some rows replaces these and
keeps the others. `--add` does the same with the rows of runs that wrote other files: their counts are added up.
Exits with 1 if a trial did not end as it should.
"""

import argparse
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from evomerge.environment import machine, versions
from experiments.faults.steps import STEPS, Step, chosen
from experiments.faults.table import Measured, Row, added, merged, page, read, write
from experiments.faults.trials import Trials

log = logging.getLogger("faults")


def measure(trials: Trials, step: Step) -> list[Measured]:
    """The rows of one step."""
    started, rows = time.monotonic(), list[Row]()
    trials.begin(step.name)
    for row in step.run(trials):
        log.info("%s: %d of %d; %s", row.fault, row.well, row.times, row.seen)
        for text in row.wrong:
            log.info("  wrong: %s", text)
        rows.append(row)
    setting = _setting(trials.kills)
    log.info("%s took %.1f minutes", step.name, (time.monotonic() - started) / 60)
    return [Measured(step.name, step.table, row, setting) for row in rows]


def _setting(kills: int) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    here, libraries, where = machine(), versions(), commit.stdout.strip() or "an unknown commit"
    return (
        f"`python -m experiments.faults --kills {kills}`, measured at {where} on {platform.system()}, "
        f"{here['cpus']} CPU cores, torch {libraries['torch']}, Python {libraries['python']}."
    )


def run(steps: Iterable[Step], trials: Trials, out: Path) -> bool:
    """Measure the steps and write the page after each; whether all trials ended as they should."""
    well = True
    for step in steps:
        well = keep(measure(trials, step), out) and well
    return well


def keep(new: list[Measured], out: Path) -> bool:
    """Put rows in the place of those of the same steps, and write the page; whether all trials ended as they should."""
    kept, names = out.with_suffix(".json"), [step.name for step in STEPS]
    rows = merged(read(kept), new, names)
    write(kept, rows)
    out.write_text(page(rows, names), encoding="utf-8")
    return not any(found.row.wrong for found in new)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", default="", help=f"names, or their beginnings: {', '.join(s.name for s in STEPS)}")
    parser.add_argument("--kills", type=int, default=100, help="of a driver; other faults are a part of it")
    parser.add_argument("--out", type=Path, default=Path("docs/reliability.md"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--add", type=Path, nargs="+", help="results of runs that are parts of one measurement")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if options.add:
        return 0 if keep(added(map(read, options.add)), options.out) else 1
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder) / "trial", options.kills, options.seed)
        return 0 if run(chosen([name for name in options.rows.split(",") if name]), trials, options.out) else 1


if __name__ == "__main__":
    # One thread by the environment, before torch is imported: after torch.set_num_threads, a thread of a forked child
    # would ask for the parent's thread pool.
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.environ["OMP_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "experiments.faults", *sys.argv[1:]])
    sys.exit(main())
