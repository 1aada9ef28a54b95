"""What a race saves and what it costs: whole simulated searches under several rules, at equal items.

Usage: python experiments/benchmarks/race.py [--quick] [--json FILE] [--searches 200] [--rules 'off;margin 1']
README.md beside this file says what the columns mean.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from _landscape import DIMENSIONS, TASKS, Items, named, plan, starts, truth
from _rows import Row, environment, print_table, write_json

from evomerge import optimizers
from evomerge.optimizers import Coordinate, Optimizer, Vector
from evomerge.optimizers._surrogate import Surrogate
from evomerge.recipes.recipe import Recipe
from evomerge.scoring.protocol import Chunk
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.generation import run_generation
from evomerge.searching.item_order import ItemOrder, agreement_levels, chunks_by_level
from evomerge.searching.objective import Fitness, Objective
from evomerge.searching.race import RaceConfig
from evomerge.searching.stages import Candidate, Stage

SELECT, TOP, CHUNK = 80, 5, 16  # items of each task, finalists, items of a chunk
BUDGETS = (1600, 3200, 6400, 12800)

RULES = {
    "off": RaceConfig(enabled=False),
    "margin 1, 16 to 32 items": RaceConfig(least=16, most=32),
    "margin 1, 24 to 48 items": RaceConfig(),
    "margin 1, 24 to 48 items, always the same chunk first": RaceConfig(items="fixed"),
    "margin 1, 24 to 48 items, informative ones first": RaceConfig(items="informative"),
    "margin 1, 48 to 96 items": RaceConfig(least=48, most=96),
    "margin 1, 24 to 96 items": RaceConfig(most=96),
    "margin 1, 24 to 192 items": RaceConfig(most=192),
    "margin 1": RaceConfig(most=None),
    "margin 0.5": RaceConfig(margin=0.5, most=None),
    "margin 2": RaceConfig(margin=2.0, most=None),
    "alpha 0.05": RaceConfig(alpha=0.05),
}


class Table:
    """An evaluator whose candidates are all scored already."""

    def __init__(self, items: Items) -> None:
        self.plan = plan(items.count, CHUNK)
        self.objective = Objective(self.plan.weights)
        self._items, self._scores = items, dict[str, dict[str, float]]()

    def order(self, rule: RaceConfig) -> ItemOrder:
        """As `item_order` has it after baselines: the base, and what the search begins with."""
        if rule.items != "informative":
            return ItemOrder.as_drawn(self.plan, rotating=rule.items == "rotating")
        standing = [dict(named(self._items.right(point))) for point in (np.zeros(DIMENSIONS), *starts())]
        levels = agreement_levels(self.plan, standing)
        self.plan = replace(self.plan, chunks={"search": chunks_by_level(self.plan, levels)})
        return ItemOrder.by_level(self.plan, levels)

    def candidate(self, key: str, point: Vector) -> Candidate:
        """A point of the cube as a candidate with that key."""
        self._scores[key] = dict(named(self._items.right(point)))
        return Candidate(key, cast(Recipe, None), key, point)

    def evaluate_stages(self, chunks: Sequence[Chunk], stages: Iterator[Stage]) -> None:
        """Nothing is left to pay for."""
        for _ in stages:
            pass

    def evaluate(self, candidates: Sequence[Candidate], slice_name: str) -> None:
        """Nor here."""

    def error_on(self, key: str, chunks: Sequence[Chunk]) -> None:
        """Nobody fails."""

    def record_race(self, generation: int, first: str, stopped: dict[str, int]) -> None:
        """There is no ledger."""

    def objective_items_on(self, key: str, chunks: Sequence[Chunk]) -> dict[str, float]:
        """Item → score."""
        return {item: self._scores[key][item] for chunk in chunks for item in chunk.items}

    def fitness(self, key: str, slice_name: str) -> Fitness:
        """On the whole slice."""
        return self.objective.fitness(self.plan.by_task(self._scores[key]), {})


class Search:
    """One simulated search: the real optimizer and the real race on so many simulated items of each task."""

    def __init__(self, seed: int, rule: RaceConfig, items: int) -> None:
        self._rule, self._table = rule, Table(Items(2 * seed, items))
        self._order = self._table.order(rule)
        self._select, self._made = Items(2 * seed + 1, SELECT), 0
        coordinates = tuple(Coordinate(f"x{place}") for place in range(DIMENSIONS))
        self._optimizer: Optimizer = optimizers.create("cma", coordinates, starts(), seed, {})
        self._whole: list[tuple[float, Vector]] = []
        self._model = Surrogate()
        self.generations = self.spent = self.asked = 0

    def until(self, items: int) -> float:
        """The true score of what would be shipped when so many items are spent."""
        while self.spent < items:
            self._generation()
        best = sorted(self._whole, key=lambda pair: -pair[0])[:TOP]
        finalists = [point for _, point in best]
        finalists += [point for point in (self._optimizer.centre(), self._model.best()) if point is not None]
        return truth(max(finalists, key=lambda point: self._select.right(point).mean()))

    def _generation(self) -> None:
        vectors = self._optimizer.ask(self._model)
        candidates = [self._table.candidate(self._key(), vector) for vector in vectors]
        self.generations += 1
        scored = run_generation(cast(Evaluator, self._table), candidates, self._rule, self._order, self.generations)
        self._whole += [
            (scored.fitness[c.key].score, v)
            for c, v in zip(candidates, vectors, strict=True)
            if c.key in scored.complete
        ]
        losses = [-scored.fitness[c.key].score for c in candidates]
        self._model.tell(vectors, losses)
        self._optimizer.tell(vectors, losses)
        self.spent += sum(scored.items_seen.values())
        self.asked += len(candidates)

    def _key(self) -> str:
        """Keys in no order, as those of recipes."""
        self._made += 1
        return f"{self._made * 7919 % 999983:06d}"


def measure(name: str, rule: RaceConfig, searches: int, items: int) -> Row:
    """One contestant: the same seeds, so the same items, for all of them."""
    runs = [Search(seed, rule, items) for seed in range(1, searches + 1)]
    row: dict[str, Any] = {"benchmark": "race", "group": name, "name": name, "searches": searches, "items": BUDGETS}
    row["slice"] = TASKS * items
    found = [[run.until(budget) for run in runs] for budget in BUDGETS]
    row["score"] = [statistics.mean(scores) for scores in found]
    row["error"] = [statistics.stdev(scores) / len(scores) ** 0.5 for scores in found]
    row["share"] = statistics.mean(run.spent / (run.asked * row["slice"]) for run in runs)
    row["generations"] = statistics.mean(run.generations for run in runs)
    return row


def main(arguments: list[str] | None = None) -> None:
    """Measure the rules one after the other."""
    parser = argparse.ArgumentParser(description="benchmark of evomerge's race, on simulated searches")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, after each rule")
    parser.add_argument("--quick", action="store_true", help="two searches: shows that it runs")
    parser.add_argument("--searches", type=int, help="default 200")
    parser.add_argument("--items", type=int, default=40, help="of each of the four tasks in the search slice")
    parser.add_argument("--rules", metavar="A;B", help=f"of {'; '.join(RULES)}")
    options = parser.parse_args(arguments)
    names = options.rules.split(";") if options.rules else list(RULES)
    for name in names:
        if name not in RULES:
            parser.error(f"--rules {name}: choose one of {'; '.join(RULES)}")
    searches = options.searches or (2 if options.quick else 200)
    machine, rows = environment("cpu", 1, numpy=np.__version__), list[Row]()
    for name in names:
        rows.append(measure(name, RULES[name], searches, options.items))
        if options.json:
            write_json(rows, options.json, machine)
    columns = {"rule": lambda row: row["name"], "share": lambda row: f"{row['share']:.0%}"}
    for place, items in enumerate(BUDGETS):
        columns[f"at {items}"] = lambda row, at=place: f"{row['score'][at]:.4f} ±{row['error'][at]:.4f}"
    columns["generations"] = lambda row: f"{row['generations']:.0f}"
    print_table(
        f"true score of what is shipped, slice of {TASKS * options.items}, {searches} searches, {machine['commit']}",
        columns,
        rows,
    )


if __name__ == "__main__":
    main()
