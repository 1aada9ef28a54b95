"""Search with all 20 adapters, with those that a screening chooses, and with the 5 that matter, for the same items.

usage: python experiments/selecting/compare.py FAMILY OUT [--items N] [--seeds 1 2 3] [--kinds cma slope]

FAMILY is a folder of make_family.py. `items` counts everything that is scored on the search slice: rows, screening and
candidates. Prints a Markdown table of holdout scores; runs below OUT are resumed.
"""

import argparse
import logging
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from skills import TASKS, USEFUL

import evomerge

log = logging.getLogger("compare")

SEARCH, SELECT, HOLDOUT = 30, 30, 100  # items of each task
WAYS = ("all 20", "scores alone", "screen", "the 5")
MOST = 8
SPACES: dict[str, dict[str, Any]] = {
    "cma": {"method": "task_arithmetic", "space": {"schedule": "blocks:2"}, "optimizer": {"name": "cma"}},
    "slope": {
        "method": "task_arithmetic",
        "space": {
            "schedule": "each",
            "components": ["attention", "mlp"],
            "genes": {"weight": {"low": -0.5, "high": 2.0}},
        },
        "optimizer": {"name": "slope", "rate": 0.02},
    },
}


def configuration(family: Path, kind: str, experts: list[str], seed: int) -> dict[str, Any]:
    """One search; its budget is set apart."""
    tasks = [{"name": task, "file": str(family / "data" / f"{task}.jsonl")} for task in TASKS]
    return {
        "base": str(family / "base"),
        "experts": {name: str(family / "adapters" / name) for name in experts},
        **SPACES[kind],
        "model": {"dtype": "float32", "device": "cpu", "batch_size": 256},
        "scorer": {"slices": {"search": SEARCH, "select": SELECT, "holdout": HOLDOUT}, "tasks": tasks},
        "finalise": {"top": 5},
        "seed": seed,
    }


def run(folder: Path, config: dict[str, Any], items: int, spent: int) -> dict[str, Any]:
    """Search with what `spent` leaves of the items, and return result.json."""
    budget = {"evaluations": None, "items": max(1, items - spent)}
    result = evomerge.search(config | {"budget": budget}, folder)
    return dict(result.document)


def best_alone(record: dict[str, Any], count: int) -> list[str]:
    """The experts with the best scores alone, as another way to choose."""
    rows = sorted(record["rows"], key=lambda row: (-row.get("score", 0.0), row["label"]))
    return [row["label"] for row in rows[:count]]


def searches(family: Path, out: Path, kind: str, seed: int, items: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each way with its result. What the screening of one way has scored is paid by every way that uses its scores."""
    names, slice_items = sorted(path.name for path in (family / "adapters").iterdir()), SEARCH * len(TASKS)
    config = configuration(family, kind, names, seed)
    # The screening scores the base, each expert and some merges; a search then has two rows more.
    screened = config | {"screen": {"most": MOST}}
    first = run(out / f"{kind}-screen-{seed}", screened, 1, 0)
    cost = (len(first["screen"]["scored"]) + 2) * slice_items
    yield "screen", run(out / f"{kind}-screen-{seed}", screened, items, cost)
    rows = 3 * slice_items
    yield "all 20", run(out / f"{kind}-all-{seed}", config, items, len(names) * slice_items + rows)
    alone = best_alone(first["screen"], len(USEFUL))
    spent = len(names) * slice_items + rows
    yield "scores alone", run(out / f"{kind}-alone-{seed}", configuration(family, kind, alone, seed), items, spent)
    five = configuration(family, kind, list(USEFUL), seed)
    yield "the 5", run(out / f"{kind}-five-{seed}", five, items, len(USEFUL) * slice_items + rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--items", type=int, default=12000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--kinds", nargs="+", default=list(SPACES))
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(1)
    for kind in given.kinds:
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for seed in given.seeds:
            for way, document in searches(given.family, given.out, kind, seed, given.items):
                score = document["rows"][-1]["scores"]["holdout"]
                found[way].append(score)
                kept = document.get("screen", {}).get("kept", [])
                log.info("%s, seed %d, %s: %.3f %s", kind, seed, way, score, ", ".join(kept))
        log.info("| %s | mean | each seed |\n|---|---|---|", kind)
        for way, scores in found.items():
            log.info("| %s | %.3f | %s |", way, statistics.mean(scores), ", ".join(f"{s:.3f}" for s in scores))


if __name__ == "__main__":
    main()
