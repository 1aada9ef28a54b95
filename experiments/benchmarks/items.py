"""What the order of the items would have been worth in a run of yours: how far off differences are after some of them.

Usage: python experiments/benchmarks/items.py runs/NAME [--quick] [--json FILE]
README.md beside this file says what the columns mean.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from _rows import Row, environment, print_table, write_json

from evomerge.ledger.reading import complete_scores, plan_of, read_trials
from evomerge.scoring.protocol import Plan, task_of
from evomerge.scoring.tasks.slices import into_chunks
from evomerge.searching.item_order import ItemOrder, agreement_levels, chunks_by_level
from evomerge.searching.race import Matrix

SEEN, CHUNK, BEST = (16, 32, 48, 64, 96, 128), 16, 12  # items, items of a chunk, candidates
Scores = Mapping[str, Mapping[str, float]]  # key → item → score


def read(folder: Path) -> tuple[Plan, Scores, list[str]]:
    """The search slice, what every recipe scores that has seen all of it, and the baselines' keys."""
    if not (folder / "result.json").is_file():
        raise SystemExit(f"{folder}: no result.json; give the folder of a finished run")
    ledger_header, lines = read_trials(folder / "trials.jsonl")
    plan = plan_of(ledger_header, lines)
    scores = complete_scores(plan, lines)
    baselines = [row["key"] for row in json.loads((folder / "result.json").read_text())["rows"][:-1]]
    if len(scores.keys() - set(baselines)) < 2:
        raise SystemExit(f"{folder}: fewer than two candidates have seen the whole search slice; give a longer search")
    return plan, scores, baselines


class Draws:
    """Search slices of the same items in another order each, and the best candidates' scores on them."""

    def __init__(self, plan: Plan, scores: Scores, baselines: Sequence[str]) -> None:
        items = list(dict.fromkeys(plan.items("search")))
        self._standing = [scores[key] for key in baselines if key in scores]
        others = sorted((s for key, s in scores.items() if key not in baselines), key=lambda s: -sum(s.values()))
        self._place = {item: place for place, item in enumerate(items)}
        self.candidates: Matrix = np.array([[s[item] for item in items] for s in others[:BEST]])
        self._tasks: dict[str, list[str]] = {}
        for item in items:
            self._tasks.setdefault(task_of(item), []).append(item)
        self._weights = plan.weights

    def orders(self, seed: int) -> dict[str, ItemOrder]:
        """One draw of the slice, in both orders."""
        draw = np.random.default_rng(seed)
        shuffled = {task: [str(item) for item in draw.permutation(items)] for task, items in self._tasks.items()}
        plan = Plan({"search": into_chunks("search", shuffled, CHUNK)}, self._weights)
        levels = agreement_levels(plan, self._standing)
        anew = replace(plan, chunks={"search": chunks_by_level(plan, levels)})
        return {"rotating": ItemOrder.as_drawn(plan, rotating=True), "informative": ItemOrder.by_level(anew, levels)}

    def squared_error(self, order: ItemOrder, number: int, seen: int) -> float:
        """Of the difference between two candidates after so many items, mean over all pairs."""
        items = [item for chunk in order.generation_chunks(number) for item in chunk.items]
        off = self._means(order, items[:seen]) - self._means(order, items)
        return float(((off[:, None] - off[None, :]) ** 2).mean())

    def _means(self, order: ItemOrder, items: Sequence[str]) -> Matrix:
        scores = self.candidates[:, [self._place[item] for item in items]]
        return order.strata(items, self._weights).means(scores)


def measure(folder: Path, draws: int) -> list[Row]:
    """A row for each number of items."""
    made, found = Draws(*read(folder)), dict[tuple[str, int], list[float]]()
    parts = [seen for seen in SEEN if seen < made.candidates.shape[1]]
    for number in range(draws):
        for name, order in made.orders(number).items():
            for seen in parts:
                found.setdefault((name, seen), []).append(made.squared_error(order, number, seen))
    rows: list[Row] = []
    for seen in parts:
        even, informative = (float(np.mean(found[name, seen])) for name in ("rotating", "informative"))
        row: Row = {"benchmark": "items", "group": str(folder), "name": str(seen), "run": folder.name, "seen": seen}
        rows.append(row | {"rotating": even**0.5, "informative": informative**0.5, "ratio": informative / even})
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure one finished run after the other."""
    parser = argparse.ArgumentParser(description="benchmark of race.items, on the scores of finished runs")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--quick", action="store_true", help="five draws: shows that it runs")
    options = parser.parse_args(arguments)
    rows = [row for folder in options.runs for row in measure(folder, 5 if options.quick else 300)]
    machine = environment("cpu", 1, numpy=np.__version__)
    if options.json:
        write_json(rows, options.json, machine)
    columns = {
        "run": lambda row: row["run"],
        "items seen": lambda row: str(row["seen"]),
        "error, rotating": lambda row: f"{row['rotating']:.4f}",
        "error, informative": lambda row: f"{row['informative']:.4f}",
        "ratio of variances": lambda row: f"{row['ratio']:.2f}",
    }
    print_table(f"differences between the best candidates; commit {machine['commit']}", columns, rows)


if __name__ == "__main__":
    main()
