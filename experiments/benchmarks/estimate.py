"""How far off the scores of stopped candidates are: bias and error of three estimates, on simulated generations.

Usage: python experiments/benchmarks/estimate.py [--quick] [--json FILE] [--generations 2000] [--candidates 8]
README.md beside this file says what the columns mean.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from _landscape import TASKS, plan
from _rows import Row, environment, print_table, write_json

from evomerge.recipes.recipe import Recipe
from evomerge.scoring.protocol import Chunk
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.generation import run_generation
from evomerge.searching.item_order import ItemOrder
from evomerge.searching.objective import Fitness, Objective
from evomerge.searching.race import RaceConfig
from evomerge.searching.stages import Candidate, Stage

ITEMS, CHUNK, LEVEL = 40, 16, 0.9  # items of each task, items of a chunk, mean strength
KINDS = ("right or wrong", "graded")
STRENGTHS = {"equal": 0.0, "similar": 0.1, "different": 0.3}  # standard deviation, in those of an item
SHARED = (0.2, 0.6, 0.9)
ESTIMATES = ("seen items", "leader", "control")


class Generation:
    """An evaluator whose candidates are all scored already: strength + shared difficulty + luck of their own."""

    def __init__(self, seed: int, candidates: int, kind: str, spread: float, shared: float) -> None:
        self.plan = plan(ITEMS, CHUNK)
        self.objective = Objective(self.plan.weights)
        draw, items = np.random.default_rng(seed), self.plan.items("search")
        difficulty, own = draw.standard_normal(len(items)), draw.standard_normal((candidates, len(items)))
        strength = LEVEL + spread * draw.standard_normal((candidates, 1))
        scores = strength + shared**0.5 * difficulty + (1 - shared) ** 0.5 * own
        scores = (scores > 0).astype(np.float64) if kind == "right or wrong" else scores
        self.scores = {f"{row:03d}": dict(zip(items, map(float, own), strict=True)) for row, own in enumerate(scores)}

    def evaluate_stages(self, chunks: Sequence[Chunk], stages: Iterator[Stage]) -> None:
        """Nothing is left to pay for."""
        for _ in stages:
            pass

    def error_on(self, key: str, chunks: Sequence[Chunk]) -> None:
        """Nobody fails."""

    def record_race(self, generation: int, first: str, stopped: Mapping[str, int]) -> None:
        """There is no ledger."""

    def objective_items_on(self, key: str, chunks: Sequence[Chunk]) -> dict[str, float]:
        """Item → score."""
        return {item: self.scores[key][item] for chunk in chunks for item in chunk.items}

    def fitness(self, key: str, slice_name: str) -> Fitness:
        """On the whole slice."""
        return self.objective.fitness(self.plan.by_task(self.scores[key]), {})

    def errors(self, number: int) -> Iterator[tuple[float, ...]]:
        """The errors of the ESTIMATES for every stopped candidate, the last as `run_generation` returns it."""
        order = ItemOrder.as_drawn(self.plan, rotating=True)
        candidates = [Candidate(key, cast(Recipe, None), key) for key in self.scores]
        scored = run_generation(cast(Evaluator, self), candidates, RaceConfig(), order, number)
        items = [item for chunk in order.generation_chunks(number) for item in chunk.items]
        leader = max(scored.complete, key=lambda key: scored.fitness[key].score)
        for key in scored.fitness.keys() - scored.complete:
            seen = items[: scored.items_seen[key]]
            whole, plain, leading = self._mean(key, items), self._mean(key, seen), self._mean(leader, seen)
            told = scored.fitness[key].score
            yield plain - whole, plain + self._mean(leader, items) - leading - whole, told - whole

    def _mean(self, key: str, items: Sequence[str]) -> float:
        return self.plan.score({item: self.scores[key][item] for item in items})


def measure(kind: str, strength: str, shared: float, generations: int, candidates: int) -> Row:
    """Bias and root mean square error of each estimate; the same seeds in every row."""
    made = (Generation(seed, candidates, kind, STRENGTHS[strength], shared) for seed in range(generations))
    errors = np.array([found for seed, generation in enumerate(made) for found in generation.errors(seed)])
    row: Row = {"benchmark": "estimate", "group": kind, "name": f"{kind}, {strength}, {shared:g}", "kind": kind}
    row |= {"strength": strength, "shared": shared, "generations": generations, "candidates": candidates}
    row["bias"] = dict(zip(ESTIMATES, map(float, errors.mean(0)), strict=True))
    row["error"] = dict(zip(ESTIMATES, map(float, (errors**2).mean(0) ** 0.5), strict=True))
    return row


def main(arguments: list[str] | None = None) -> None:
    """Measure the rows one after the other."""
    parser = argparse.ArgumentParser(
        description="benchmark of the scores that evomerge estimates for stopped candidates"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--quick", action="store_true", help="five generations: shows that it runs")
    parser.add_argument("--generations", type=int, help="default 2000")
    parser.add_argument("--candidates", type=int, default=8, help="of a generation")
    options = parser.parse_args(arguments)
    generations = options.generations or (5 if options.quick else 2000)
    cases = [(kind, strength, shared) for kind in KINDS for strength in STRENGTHS for shared in SHARED]
    rows = [measure(*case, generations, options.candidates) for case in cases]
    machine = environment("cpu", 1, numpy=np.__version__)
    if options.json:
        write_json(rows, options.json, machine)
    columns = {
        "items": lambda row: row["kind"],
        "candidates": lambda row: row["strength"],
        "shared": lambda row: f"{row['shared']:.0%}",
    }
    for name in ESTIMATES:
        columns[name] = lambda row, name=name: f"{row['bias'][name]:+.4f}, {row['error'][name]:.4f}"
    print_table(
        f"bias and error of stopped candidates' scores, {options.candidates} candidates, slice of {TASKS * ITEMS}, "
        f"{generations} generations, {machine['commit']}",
        columns,
        rows,
    )


if __name__ == "__main__":
    main()
