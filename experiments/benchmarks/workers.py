"""How busy simulated workers are, and what a search finds in the same time: generations against asynchronous.

Usage: python experiments/benchmarks/workers.py [--quick] [--json FILE] [--searches 20] [--parts busy,quality]
README.md beside this file says what the columns mean.
"""

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _rows import Row, environment, print_table, write_json
from _workers import SPEEDS, Simulation

from evomerge.searching.race import RaceConfig

RACE, ITEMS = RaceConfig(), 40  # of each task in the search slice
WORKERS = (4, 16, 64)
PER_WORKER = 20  # candidates in a search
TIMES = (25, 50, 100)  # seconds, where a chunk takes one
SPENT = (3200, 6400, 12800)  # items
LIMIT = 13_000  # items of a search whose quality is compared


def modes(workers: int) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Name → the mode of the search, and the settings of cma."""
    return {
        "generations": ("generations", {}),
        "generations, multiple_of": ("generations", {"multiple_of": workers}),
        "asynchronous": ("asynchronous", {}),
    }


def busy(searches: int, counts: tuple[int, ...], per_worker: int, kinds: tuple[str, ...]) -> list[Row]:
    """How busy the workers are, for each number and kind of workers and each mode."""
    rows = []
    for workers in counts:
        for kind in kinds:
            for name, (mode, settings) in modes(workers).items():
                made = (Simulation(seed, kind, workers, ITEMS, settings, mode) for seed in range(1, searches + 1))
                found = [one.run(per_worker * workers, None, RACE) for one in made]
                row: Row = {"benchmark": "workers", "part": "busy", "group": kind, "name": name, "workers": workers}
                row |= {key: statistics.mean(each[key] for each in found) for key in found[0]}
                rows.append(row)
    return rows


def quality(searches: int, workers: int, kinds: tuple[str, ...]) -> list[Row]:
    """The true score of what is shipped after the same time, and after the same items."""
    rows = []
    for kind in kinds:
        for name, (mode, settings) in modes(workers).items():
            at_time, at_items = list[list[float]](), list[list[float]]()
            for seed in range(1, searches + 1):
                simulation = Simulation(seed, kind, workers, ITEMS, settings, mode)
                simulation.run(None, LIMIT, RACE)
                at_time.append([_last(simulation, "seconds", limit) for limit in TIMES])
                at_items.append([_last(simulation, "items", limit) for limit in SPENT])
            row: Row = {"benchmark": "workers", "part": "quality", "group": kind, "name": name, "workers": workers}
            for key, table in (("time", at_time), ("items", at_items)):
                columns = list(zip(*table, strict=True))
                row[f"at_{key}"] = [statistics.mean(column) for column in columns]
                row[f"error_{key}"] = [statistics.stdev(column) / len(column) ** 0.5 for column in columns]
            rows.append(row)
    return rows


def _last(simulation: Simulation, unit: str, limit: float) -> float:
    """The score of the last moment within the limit, or of the first one."""
    within = [moment for moment in simulation.moments if getattr(moment, unit) <= limit]
    return simulation.shipped(within[-1] if within else simulation.moments[0])


def main(arguments: list[str] | None = None) -> None:
    """Measure the parts one after the other."""
    parser = argparse.ArgumentParser(description="benchmark of evomerge's modes of search, on simulated workers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--quick", action="store_true", help="two short searches: shows that it runs")
    parser.add_argument("--searches", type=int, help="default 3 for busy, 24 for quality")
    parser.add_argument("--parts", default="busy,quality")
    parser.add_argument("--kinds", default=",".join(SPEEDS), help="of the workers' speeds")
    options = parser.parse_args(arguments)
    machine, rows = environment("cpu", 1, numpy=np.__version__), list[Row]()
    kinds = ("1:4",) if options.quick else tuple(options.kinds.split(","))
    if "busy" in options.parts:
        counts, per_worker = ((4,), 6) if options.quick else (WORKERS, PER_WORKER)
        rows += busy(options.searches or (2 if options.quick else 3), counts, per_worker, kinds)
        columns = {"workers": lambda row: f"{row['workers']} {row['group']}", "mode": lambda row: row["name"]}
        columns["busy"] = lambda row: f"{row['busy']:.1%}"
        columns["of the items used"] = lambda row: f"{row['used']:.0%}"
        columns["time"] = lambda row: f"{row['seconds']:.0f}"
        columns["driver ms a candidate"] = lambda row: f"{1e3 * row['driver']:.1f}"
        print_table(f"simulated workers, {machine['commit']}", columns, rows)
    if "quality" in options.parts:
        found = quality(options.searches or (2 if options.quick else 24), 16, kinds)
        columns = {"16 workers": lambda row: row["group"], "mode": lambda row: row["name"]}
        for unit, limits in (("time", TIMES), ("items", SPENT)):
            for place, limit in enumerate(limits):
                columns[f"{unit} {limit}"] = lambda row, at=place, key=unit: (
                    f"{row[f'at_{key}'][at]:.4f} ±{row[f'error_{key}'][at]:.4f}"
                )
        print_table(f"true score of what is shipped, {machine['commit']}", columns, found)
        rows += found
    if options.json:
        write_json(rows, options.json, machine)


if __name__ == "__main__":
    main()
