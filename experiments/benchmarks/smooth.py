"""Whether a smooth score of an item, such as the probability of the right choice, ranks candidates with fewer items.

Usage: python experiments/benchmarks/smooth.py ranks|searches [--quick] [--family quickstart|smollm2] [--json FILE]
README.md beside this file says what the columns mean.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _arena import Arena, Moment
from _matrix import KINDS, Matrix, Scores, measure, read
from _rows import Row, environment, print_table, write_json
from _smooth import SMOOTH, SmoothScorer

from evomerge import optimizers
from evomerge.optimizers import Optimizer
from evomerge.scoring import task_of

SIZES = (16, 32, 64, 128)  # items by which candidates are ranked; as many others say which rank is right
SMOOTH_SIZES = (16, 32, 64)  # of the smooth score, for which the metric's number of items is sought
LARGEST = 16.0  # ratio: where the metric ranks no better with more items, every ratio would be infinite
FEWEST = 6  # candidates of a kind
SHARES = (0.1, 0.25, 0.5, 1.0)
CENTRES = {  # good points, around which the search ends
    "quickstart": None,
    "smollm2": (0.407, 0.413, 0.008, 0.951, 0.527, 0.647, 0.208, 0.955),
}
CANDIDATES, MATRIX = {"quickstart": 48, "smollm2": 35}, {"quickstart": 240, "smollm2": 48}
SLICES = {"quickstart": "{search: 100, select: 60, holdout: 100}", "smollm2": "{search: 64, select: 2, holdout: 2}"}


def smooth_scores(scores: Scores) -> dict[str, Matrix]:
    """Name → [candidates, items]."""
    columns = list(enumerate(zip(scores.choices, scores.gold, strict=True)))
    return {
        name: np.stack([smooth(choices, gold, scores.metric[:, i]) for i, (choices, gold) in columns], 1)
        for name, smooth in SMOOTH.items()
    }


class Ranks:
    """How well means of few items rank candidates by the metric of other items; `rows` may be a bootstrap sample."""

    def __init__(self, values: Mapping[str, Matrix], tasks: Matrix, rows: Matrix, draw: np.random.Generator) -> None:
        self._values, self._rows, self._draw = values, rows, draw
        self._by_task = [np.flatnonzero(tasks == task) for task in np.unique(tasks)]
        first, second = np.triu_indices(len(rows), 1)
        other = rows[first] != rows[second]  # a candidate that is drawn twice is no pair
        self._first, self._second = first[other], second[other]

    def measure(self, splits: int) -> dict[str, Matrix]:
        """Name → [sizes, (Kendall's tau, accuracy of the upper half, regret)], means over random halves of items."""
        found = {name: np.zeros((len(SIZES), 3)) for name in self._values}
        for _ in range(splits):
            mixed = [self._draw.permutation(items) for items in self._by_task]
            truth = self._mean("metric", np.concatenate([items[len(items) // 2 :] for items in mixed]))
            for place, size in enumerate(SIZES):
                seen = np.concatenate([items[: min(len(items) // 2, size // len(mixed))] for items in mixed])
                for name in self._values:
                    found[name][place] += self._quality(self._mean(name, seen), truth)
        return {name: sums / splits for name, sums in found.items()}

    def _mean(self, name: str, items: Matrix) -> Matrix:
        return np.round(self._values[name][np.ix_(self._rows, items)].mean(1), 12)

    def _quality(self, means: Matrix, truth: Matrix) -> tuple[float, float, float]:
        ours = np.sign(means[self._first] - means[self._second])
        right = np.sign(truth[self._first] - truth[self._second])
        ties = np.sqrt(np.count_nonzero(ours) * np.count_nonzero(right))
        half = len(means) // 2
        jitter = self._draw.random((2, len(means)))  # equal means in random order
        upper = np.lexsort((jitter[0], -means))[:half]
        best = np.lexsort((jitter[1], -truth))[:half]
        return (
            float((ours * right).sum() / ties) if ties else 0.0,
            len(np.intersect1d(upper, best)) / half,
            float(truth.max() - truth[upper[0]]),
        )


def ratio(metric: Matrix, smooth: Matrix) -> float:
    """Items of the metric per item of the smooth score at equal quality, a geometric mean over SMOOTH_SIZES.

    The metric's quality is interpolated, beyond its sizes extrapolated, as a line over the logarithm of items; each
    ratio is at most LARGEST.
    """
    quality, logs = np.maximum.accumulate(metric), np.log(SIZES)
    slope = max((quality[-1] - quality[0]) / (logs[-1] - logs[0]), 1e-9)
    found = []
    for size, value in zip(SIZES, smooth, strict=True):
        if size in SMOOTH_SIZES:
            if value < quality[0]:
                at = logs[0] - (quality[0] - value) / slope
            elif value > quality[-1]:
                at = logs[-1] + (value - quality[-1]) / slope
            else:
                at = float(np.interp(value, quality + 1e-9 * np.arange(len(SIZES)), logs))
            found.append(float(np.clip(at - np.log(size), -np.log(LARGEST), np.log(LARGEST))))
    return float(np.exp(np.mean(found)))


def ranks(scores: Scores, options: argparse.Namespace) -> Iterator[Row]:
    """One row for each kind of candidates and each score."""
    values = smooth_scores(scores)
    tasks = np.array([task_of(item) for item in scores.items])
    kinds = np.array(scores.kinds)
    for kind in ("all", *KINDS):
        rows = np.flatnonzero((kinds == kind) | (kind == "all"))
        if len(rows) < FEWEST:
            continue
        draw = np.random.default_rng(1)
        whole = Ranks(values, tasks, rows, draw).measure(options.splits)
        boots = []
        for _ in range(options.bootstraps):
            drawn = draw.choice(rows, len(rows))
            boots.append(Ranks(values, tasks, drawn, draw).measure(max(2, options.splits // 4)))
        for name, found in whole.items():
            row: Row = {"benchmark": "smooth", "group": kind, "name": name, "candidates": len(rows)}
            row |= {"tau": list(found[:, 0]), "half": list(found[:, 1]), "regret": list(found[:, 2])}
            for column, measured in enumerate(("tau", "half")):
                row[f"{measured} ratio"] = ratio(whole["metric"][:, column], found[:, column])
                spread = [ratio(boot["metric"][:, column], boot[name][:, column]) for boot in boots]
                row[f"{measured} interval"] = list(np.quantile(spread, (0.025, 0.975)))
            yield row


def searches(arena: Arena, options: argparse.Namespace) -> Iterator[Row]:
    """The real search with races on each score, at equal items; what `select` chooses, by the metric, on `holdout`."""
    items = options.candidates * arena.items
    for name in options.scores:
        start = time.monotonic()
        scorer = SmoothScorer(arena.experiment.scorer, SMOOTH[name])
        race = arena.experiment.config.race
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        runs = [arena.play(_cma(arena, seed), arena.experiment.space, items, race, scorer=scorer) for seed in seeds]
        row: Row = {"benchmark": "smooth", "group": "searches", "name": name, "seconds": time.monotonic() - start}
        for share in SHARES:
            moments = [_at(run, share * items) for run in runs]
            row[f"holdout {share}"] = [arena.score(arena.chosen(moment.finalists), "holdout") for moment in moments]
            row[f"leader {share}"] = [arena.score(moment.leader, "holdout") for moment in moments]
        print(name, f"{row['seconds']:.0f} s", file=sys.stderr, flush=True)
        yield row


def _cma(arena: Arena, seed: int) -> Optimizer:
    space = arena.experiment.space
    points = {space.decode(point).key(): point for point in space.seed_points().values()}
    return optimizers.create("cma", space.coordinates(), list(points.values()), seed, {})


def _at(run: list[Moment], items: float) -> Moment:
    return [moment for moment in run if moment.items <= items][-1]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; what is misspelt ends the program with one line."""
    parser = argparse.ArgumentParser(description="benchmark of smooth scores")
    parser.add_argument("part", choices=("ranks", "searches"))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, after each score")
    parser.add_argument("--matrix", type=Path, metavar="FILE", help="of `ranks`: kept there, and continued")
    parser.add_argument("--no-measure", action="store_true", help="of `ranks`: only what the file holds")
    parser.add_argument("--quick", action="store_true", help="few candidates: shows that it runs")
    parser.add_argument("--family", choices=CENTRES, default="quickstart")
    parser.add_argument("--scores", metavar="A;B", help=f"of {'; '.join(SMOOTH)}")
    parser.add_argument("--seeds", type=int, help="of `searches`; default 10")
    parser.add_argument("--first-seed", type=int, default=101)
    parser.add_argument("--candidates", type=int, help="of `searches`: whole slices that the items suffice for")
    parser.add_argument("--rows", type=int, help="of `ranks`: candidates of the matrix")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--bootstraps", type=int, default=200)
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="of the experiment")
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or (2 if options.quick else 10)
    options.candidates = options.candidates or (6 if options.quick else CANDIDATES[options.family])
    options.rows = options.rows or (3 * FEWEST if options.quick else MATRIX[options.family])
    if options.quick:
        options.splits, options.bootstraps = 4, 2
    options.scores = options.scores.split(";") if options.scores else ["metric", "probability", "metric + probability"]
    for name in options.scores:
        if name not in SMOOTH:
            parser.error(f"--scores {name}: choose one of {'; '.join(SMOOTH)}")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = parse(arguments)
    torch.set_num_threads(1)
    setting, rows = environment("cpu", 1), list[Row]()
    for row in _rows(options):
        rows.append(row)
        if options.json:
            write_json(rows, options.json, setting)
    print_table(f"{options.family}, {options.part}; commit {setting['commit']}", _columns(options.part), rows)


def _rows(options: argparse.Namespace) -> Iterator[Row]:
    small = ["scorer.slices={search: 8, select: 8, holdout: 8}"] if options.quick else []
    if options.part == "searches":
        yield from searches(Arena(options.family, [*small, *options.override]), options)
        return
    path = options.matrix or Path(tempfile.mkdtemp(prefix="smooth-")) / "matrix.jsonl"
    if not options.no_measure:
        slices = [] if options.quick else [f"scorer.slices={SLICES[options.family]}"]
        arena = Arena(options.family, [*small, *slices, *options.override])
        measure(arena, options.rows, CENTRES[options.family], path)
    yield from ranks(read(path), options)


def _columns(part: str) -> dict[str, Any]:
    if part == "searches":
        shown = {f"{share:.0%} of the items": f"holdout {share}" for share in SHARES}
        return {"race on": lambda row: row["name"]} | {head: _mean_cell(key) for head, key in shown.items()}
    columns: dict[str, Any] = {"candidates": lambda row: row["group"], "score": lambda row: row["name"]}
    for place, size in enumerate(SIZES):
        columns[f"τ {size}"] = lambda row, at=place: f"{row['tau'][at]:.3f}"
    for place, size in enumerate(SIZES):
        columns[f"upper half {size}"] = lambda row, at=place: f"{row['half'][at]:.3f}"
    columns["regret 64"] = lambda row: f"{row['regret'][2]:.4f}"
    for name, head in (("tau", "items saved, τ"), ("half", "items saved, upper half")):
        columns[head] = lambda row, key=name: (
            f"×{row[f'{key} ratio']:.2f} [{row[f'{key} interval'][0]:.2f}–{row[f'{key} interval'][1]:.2f}]"
        )
    return columns


def _mean_cell(key: str) -> Any:
    return lambda row: f"{statistics.mean(row[key]):.4f} [{min(row[key]):.3f}–{max(row[key]):.3f}]"


if __name__ == "__main__":
    main()
