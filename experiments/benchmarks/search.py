"""What a search finds for the items that it spends: every optimizer, with and without racing, beside plain rivals.

Usage: python experiments/benchmarks/search.py [--quick] [--json FILE] [--family quickstart|smollm2] [--racing off,on]
README.md beside this file says what the columns mean.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _arena import Arena, Moment
from _rivals import FoldedCMA, static, wide_space
from _rows import Row, environment, print_table, write_json

from evomerge import optimizers
from evomerge.optimizers import Optimizer
from evomerge.searching.race import RaceConfig
from evomerge.searching.stages import Candidate
from evomerge.space.search_space import SearchSpace

RIVAL = "CMA-ES as mergekit-evolve"
CONTESTANTS: dict[str, dict[str, Any]] = {
    RIVAL: {},
    "random": {"name": "random"},
    "sobol": {"name": "sobol"},
    "grid": {"name": "grid"},
    "cma": {"name": "cma"},
    "cma, screen=1": {"name": "cma", "screen": 1},
    "cma, screen=1, λ=4+3ln n": {"name": "cma", "screen": 1, "population": 0},
    "slope": {"name": "slope"},
    "cma, start=slope": {"name": "cma", "start": "slope"},
    "optuna tpe": {"name": "optuna", "sampler": "tpe"},
    "optuna gp": {"name": "optuna", "sampler": "gp"},
    "optuna cma": {"name": "optuna", "sampler": "cma"},
    "optuna nsga2": {"name": "optuna", "sampler": "nsga2"},
    "optuna nsga3": {"name": "optuna", "sampler": "nsga3"},
    "optuna qmc": {"name": "optuna", "sampler": "qmc"},
}
SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)  # of the items


@dataclass(frozen=True)
class Family:
    """An experiment of conf/experiment, the candidates that its items suffice for, and the seeds."""

    candidates: int
    seeds: int


FAMILIES = {"quickstart": Family(48, 10), "smollm2": Family(35, 5)}
SMALL = ("scorer.slices={search: 8, select: 8, holdout: 8}",)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; what is misspelt ends the program with one line."""
    parser = argparse.ArgumentParser(description="benchmark of evomerge's optimizers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, after each contestant")
    parser.add_argument("--quick", action="store_true", help="few items and two seeds: shows that it runs")
    parser.add_argument("--family", choices=FAMILIES, default="quickstart")
    parser.add_argument("--racing", choices=("off", "on", "off,on"), default="off,on")
    parser.add_argument("--contestants", metavar="A;B", help=f"of {'; '.join(CONTESTANTS)}")
    parser.add_argument("--seeds", type=int, help="how many; default 10, for smollm2 5")
    parser.add_argument("--first-seed", type=int, default=101, help="defaults were tuned on seeds 1 to 10")
    parser.add_argument("--candidates", type=int, help="whole slices that the items of a search suffice for")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="of the experiment")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    family = FAMILIES[options.family]
    options.seeds = options.seeds or (2 if options.quick else family.seeds)
    options.candidates = options.candidates or (12 if options.quick else family.candidates)
    options.names = options.contestants.split(";") if options.contestants else list(CONTESTANTS)
    for name in options.names:
        if name not in CONTESTANTS:
            parser.error(f"--contestants {name}: choose one of {'; '.join(CONTESTANTS)}")
    return options


def optimizer(arena: Arena, name: str, space: SearchSpace, seed: int) -> Optimizer:
    """A contestant at the beginning of its search."""
    if name == RIVAL:
        return FoldedCMA(space.dimensions, len(arena.experiment.experts), seed)
    settings = dict(CONTESTANTS[name])
    if settings.get("population") == 0:
        settings["population"] = cma_population(space.dimensions)
    points = {space.decode(point).key(): point for point in space.seed_points().values()}
    return optimizers.create(settings.pop("name"), space.coordinates(), list(points.values()), seed, settings)


def cma_population(dimensions: int) -> int:
    """Hansen's default."""
    return 4 + int(3 * math.log(dimensions))


def compete(arena: Arena, name: str, race: RaceConfig, options: argparse.Namespace) -> Row:
    """One contestant over all seeds."""
    space = wide_space(arena) if name == RIVAL else arena.experiment.space
    items, start = options.candidates * arena.items, time.monotonic()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if optimizers.uses_slopes(CONTESTANTS[name].get("name", "random"), CONTESTANTS[name]):
        return _descend(arena, name, race, options)
    runs = [arena.play(optimizer(arena, name, space, seed), space, items, race, name != RIVAL) for seed in seeds]
    row = _row(name, "on" if race.enabled else "off", options) | {"seconds": time.monotonic() - start}
    row["items"] = [run[-1].items for run in runs]
    row["generations"] = [len(run) - 1 for run in runs]
    row["at"] = {str(share): standing(arena, [_at(run, share * items) for run in runs]) for share in SHARES}
    return row


def _descend(arena: Arena, name: str, race: RaceConfig, options: argparse.Namespace) -> Row:
    """A contestant with a descent, whose length follows from the budget: a search of its own for each share."""
    space, start = arena.experiment.space, time.monotonic()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    row, ends = _row(name, "on" if race.enabled else "off", options), {}
    for share in SHARES:
        items = int(share * options.candidates * arena.items)
        runs = [arena.play(optimizer(arena, name, space, seed), space, items, race, True, True) for seed in seeds]
        ends[str(share)] = [run[-1] for run in runs]
    last = ends[str(SHARES[-1])]
    row |= {"seconds": time.monotonic() - start, "items": [end.items for end in last], "generations": [0] * len(last)}
    return row | {"at": {share: standing(arena, moments) for share, moments in ends.items()}}


def _at(run: list[Moment], items: float) -> Moment:
    """The last generation that so many items have paid for; the baselines are free."""
    return [moment for moment in run if moment.items <= items][-1]


def standing(arena: Arena, moments: list[Moment]) -> dict[str, Any]:
    """Where each seed stands: its leader on `search`, the one that `select` chooses, and that one on `holdout`."""
    chosen = [arena.chosen(moment.finalists) for moment in moments]
    return {
        "search": [arena.score(moment.leader, "search") for moment in moments],
        "select": [arena.score(winner, "select") for winner in chosen],
        "holdout": [arena.score(winner, "holdout") for winner in chosen],
        "holdout of the leader": [arena.score(moment.leader, "holdout") for moment in moments],
    }


def compare(arena: Arena, label: str, candidates: list[Candidate], options: argparse.Namespace) -> Row:
    """A recipe without a search: the same at every share."""
    winner = arena.chosen(candidates)
    at = {name: [arena.score(winner, name)] for name in ("search", "select", "holdout")}
    row = _row(label, "", options) | {"seconds": 0.0, "items": [0], "generations": [0]}
    return row | {"at": {str(share): at | {"holdout of the leader": at["holdout"]} for share in SHARES}}


def _row(name: str, racing: str, options: argparse.Namespace) -> Row:
    shared = {"benchmark": "search", "family": options.family, "budget": options.candidates, "seeds": options.seeds}
    return shared | {"group": racing, "name": name, "racing": racing}


def measure(arena: Arena, options: argparse.Namespace) -> Iterator[Row]:
    """Recipes without a search, then every contestant."""
    for label, candidates in static(arena).items():
        yield compare(arena, label, candidates, options)
    for racing in options.racing.split(","):
        for name in options.names:
            if racing == "off" or name != RIVAL:
                announce(f"racing {racing}: {name}")
                yield compete(arena, name, replace(arena.experiment.config.race, enabled=racing == "on"), options)


def announce(line: str) -> None:
    """Progress, apart from the result."""
    print(line, file=sys.stderr, flush=True)


def score_cell(share: float, name: str) -> Callable[[Row], str]:
    """Mean, lowest and highest of the seeds."""

    def cell(row: Row) -> str:
        values = row["at"][str(share)][name]
        return f"{statistics.mean(values):.3f}" + (f" [{min(values):.3f}–{max(values):.3f}]" if len(values) > 1 else "")

    return cell


COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "racing": lambda row: str(row["racing"]),
    "contestant": lambda row: str(row["name"]),
    "search": score_cell(1.0, "search"),
    "select": score_cell(1.0, "select"),
    **{f"holdout, {share:.0%} of the items": score_cell(share, "holdout") for share in SHARES},
}


def main() -> None:
    """Measure, print, write."""
    options = parse()
    torch.set_num_threads(options.threads)
    small = SMALL if options.quick else ()
    arena = Arena(options.family, [*small, *options.override])
    setting, rows = environment("cpu", options.threads), []
    for row in measure(arena, options):
        rows.append(row)
        if options.json:
            write_json(rows, options.json, setting)  # a long run that is stopped keeps its rows
    title = f"{options.family}, {options.candidates} × {arena.items} items; commit {setting['commit']}"
    print_table(title, dict(COLUMNS), rows)


if __name__ == "__main__":
    main()
