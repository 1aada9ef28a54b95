"""What a very long search costs the driver: CPU time, memory, the ledger, and the time until it is resumed.

Usage: python experiments/benchmarks/long_search.py [--candidates 100000] [--mode asynchronous] [--optimizer random]
       [--layers 2] [--folder /dev/shm] [--json FILE]
The scorer is a toy that answers at once. README.md beside this file says what the columns mean.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from _rows import Row, environment, print_table, write_json
from _workers import BASE, EXPERTS, Merges, Scorer

from evomerge import optimizers
from evomerge.ledger.ledger import Ledger
from evomerge.optimizers import Vector
from evomerge.recipes.recipe import Recipe
from evomerge.scoring.protocol import Request
from evomerge.searching.budget import BudgetConfig, RemainingBudget
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.leaderboard import Leaderboard
from evomerge.searching.loop import ledger_header, search
from evomerge.space.baselines import mandatory_baselines
from evomerge.workers.jobs import Job, Outcome
from evomerge.workers.pools import JobQueue

ITEMS = 4  # of each of the four tasks: one chunk
MB = 1e6


class InstantPool:
    """One worker that answers at once with bits of the recipe's key."""

    def __init__(self) -> None:
        self.paid = 0

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        """The outcomes in the order of the queue."""
        while job := jobs.next(None):
            self.paid += 1
            yield Outcome(job, self._responses(job), seconds=0.1)

    def _responses(self, job: Job) -> list[float]:
        bits = int(job.key[:8], 16)
        return [float((bits >> place) & 1) for place in range(4 * ITEMS)]

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is held."""


class Unremembered(Merges):
    """The space of the simulated merges, without the table of their points."""

    def decode(self, vector: Vector, participation: Mapping[str, float] | None = None) -> Recipe:
        """The recipe of a point."""
        return super(Merges, self).decode(vector, participation)


class Watch:
    """Notes the CPU seconds at each tenth of the search."""

    def __init__(self, candidates: int) -> None:
        self._step, self.marks = candidates / 10, list[float]()

    def work(self, done: int, total: int) -> None:
        """Nothing within a generation."""

    def descent(self, step: int, loss: float) -> None:
        """There is no descent."""

    def generation(self, number: int, board: Leaderboard, scores: Sequence[float]) -> None:
        """Read what the display reads."""
        _ = board.best(), board.stopped_count, board.failed
        if len(board.candidates) >= self._step * (len(self.marks) + 1):
            self.marks.append(time.process_time())


def measure(path: Path, candidates: int, mode: str, optimizer: str, layers: int) -> Row:
    """One command: it begins the search, or replays it where the ledger has it."""
    scorer, pool, space, watch = Scorer(ITEMS), InstantPool(), Unremembered(layers), Watch(candidates)
    begun, wall = time.process_time(), time.monotonic()
    ledger = Ledger(path, ledger_header(scorer, {}))
    opened = time.monotonic() - wall
    evaluator = Evaluator(scorer, pool, ledger)  # type: ignore[arg-type]
    remaining = RemainingBudget(BudgetConfig(evaluations=candidates), evaluator, ledger)
    baselines = mandatory_baselines(space, BASE, EXPERTS)
    asynchronous, seeds = mode == "asynchronous", list(space.seed_points().values())
    proposer = optimizers.create(optimizer, space.coordinates(), seeds, 1, {}, asynchronous=asynchronous)
    search(evaluator, space, proposer, baselines, remaining, [watch], mode=mode)
    ledger.close()
    marks = watch.marks
    per_tenth = candidates / 10
    return {
        "opened": opened,
        "seconds": time.monotonic() - wall,
        "cpu": time.process_time() - begun,
        "first": (marks[1] - marks[0]) / per_tenth,
        "last": (marks[-1] - marks[-2]) / per_tenth,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB,
        "ledger": path.stat().st_size / MB,
        "paid": pool.paid,
    }


def main(arguments: list[str] | None = None) -> None:
    """Search, then repeat the command; each in a process of its own, for its memory."""
    parser = argparse.ArgumentParser(description="benchmark of evomerge's driver in a very long search")
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--mode", default="asynchronous", choices=("generations", "asynchronous"))
    parser.add_argument("--optimizer", default="random", choices=optimizers.names())
    parser.add_argument("--layers", type=int, default=2, help="four genes each")
    parser.add_argument("--folder", type=Path, help="of the ledger; default a temporary one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--ledger", type=Path, help=argparse.SUPPRESS)  # of a process that measures
    options = parser.parse_args(arguments)
    if options.ledger:
        row = measure(options.ledger, options.candidates, options.mode, options.optimizer, options.layers)
        sys.stdout.write(json.dumps(row))
        return
    rows = list[Row]()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name in ("search", "the same command again"):
            given = [*sys.argv[1:], *(["--ledger", f"{folder}/trials.jsonl"])]
            done = subprocess.run([sys.executable, __file__, *given], capture_output=True, text=True, check=True)
            rows.append({"benchmark": "long_search", "name": name, "group": name, **json.loads(done.stdout)})
    columns = {"": lambda row: row["name"]}
    columns["ledger read s"] = lambda row: f"{row['opened']:.1f}"
    columns["wall s"] = lambda row: f"{row['seconds']:.0f}"
    columns["CPU s"] = lambda row: f"{row['cpu']:.0f}"
    columns["CPU ms a candidate, second tenth"] = lambda row: f"{1e3 * row['first']:.2f}"
    columns["last tenth"] = lambda row: f"{1e3 * row['last']:.2f}"
    columns["memory MB"] = lambda row: f"{row['memory']:.0f}"
    columns["ledger MB"] = lambda row: f"{row['ledger']:.1f}"
    columns["chunks paid"] = lambda row: str(row["paid"])
    machine = environment("cpu", 1)
    title = f"{options.candidates} candidates, {4 * options.layers} genes, {options.optimizer}, {options.mode}"
    print_table(f"{title}, {machine['commit']}", columns, rows)
    if options.json:
        write_json(rows, options.json, machine)


if __name__ == "__main__":
    main()
