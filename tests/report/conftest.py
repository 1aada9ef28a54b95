"""A small finished run, written by the ledger and the recipe writer themselves."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.ledger.ledger import Ledger
from evomerge.recipes import dump_recipe
from evomerge.recipes.recipe import FilteredValue, ModelRef, Source, recipe_of_models

HOSTILE = '<script>alert("x")</script>&'
CONFIG: dict[str, Any] = {
    "name": f"run {HOSTILE}",
    "base": "models/base",
    "experts": {"math": "experts/math", HOSTILE: "experts/law"},
    "method": "ties",
    "space": {"schedule": {"blocks": 2}, "components": ["attention"], "outer": "joint"},
    "scorer": {"tasks": ["easy", {"name": "hard", "weight": 3.0}]},
}
CHUNKS = {"search/0": ["easy/0", "hard/0"], "search/1": ["easy/1", "hard/1"], "holdout/0": ["easy/2", "hard/2"]}
REASON = "a NaN in <b>model.layers.0</b>"


def recipe() -> Any:
    """ties on four layers: blocks in attention, one value elsewhere, frozen outside."""

    def weight(first: float, second: float) -> tuple[FilteredValue, ...]:
        attention = FilteredValue("self_attn.", (first, first, second, second))
        return (
            FilteredValue("model.embed_tokens.weight", 0.0),
            FilteredValue("model.norm.weight", 0.0),
            attention,
            FilteredValue(None, 0.25),
        )

    sources = (
        Source(ModelRef("experts/math"), {"weight": weight(0.125, -0.5), "density": 0.5}),
        Source(ModelRef("models/base", adapter="experts/law"), {"weight": weight(1.0, 0.75), "density": 0.5}),
    )
    return recipe_of_models("ties", ModelRef("models/base"), sources, {"normalize": False}, out_dtype="float32")


def row(label: str, score: float, key: str, role: str = "baseline") -> dict[str, Any]:
    tasks = {} if math.isnan(score) else {"easy": score, "hard": score / 2}
    return {
        "label": label,
        "role": role,
        "key": key,
        "scores": dict.fromkeys(("search", "select", "holdout"), score),
        "tasks": tasks,
    }


def comparison(label: str, difference: float, verdict: str = "better") -> dict[str, Any]:
    interval = {"low": difference - 0.1, "high": difference + 0.1, "level": 0.95}
    test = {"p": 0.01, "corrected": 0.03, "test": "McNemar"}
    return {"label": label, "difference": difference, "interval": interval, **test, "verdict": verdict}


def write_run(folder: Path, winner: str = "c3", label: str = "winner") -> Path:
    """Baselines b0 … b3, then candidates: c1 whole, c2 failed, c3 the winner, c4 dropped after its first chunk."""
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder / "trials.jsonl", {"config": CONFIG, "chunks": CHUNKS})
    document: Mapping[str, Any] = {}
    for key in ("b0", "b1", "b2", "b3"):
        for chunk in CHUNKS:
            ledger.append_scores(key, chunk, [0.5, 0.0], 0.1, document)
    scores = {"c1": [[1.0, 0.0], [1.0, 0.0]], "c2": [[0.0, 0.0]], "c3": [[1.0, 1.0], [1.0, 0.0]], "c4": [[0.0, 1.0]]}
    for key, chunks in scores.items():
        for number, values in enumerate(chunks):
            ledger.append_scores(key, f"search/{number}", values, 0.1, document)
    ledger.append_failure("c2", "search/1", REASON, document)
    ledger.append_slice_use("holdout", [winner, *(key for key in ("b0", "b1", "b2", "b3") if key != winner)])
    ledger.append_scores("c3", "holdout/0", [1.0, 1.0], 0.1, document)
    ledger.close()
    rows = [row("base", 0.2, "b0"), row("math", 0.4, "b1"), row(HOSTILE, math.nan, "b2"), row("uniform", 0.3, "b3")]
    rows.append(row(label, 0.6, winner, "winner"))
    result = {
        "winner": {"label": "1/2", "key": winner},
        "best_baseline": "math",
        "verdict": "better",
        "difference": 0.2,
        "interval": {"low": 0.1, "high": 0.3, "level": 0.95},
        "rows": rows,
        "comparisons": [comparison("base", 0.4), comparison("math", 0.2), comparison("uniform", 0.3, "tie")],
        "gap": {"winner": 0.05, "baselines": 0.01},
        "floors": {},
        "simpler": None,
        "sensitivity": None,
        "front": None,
        "layers": 4,
        "fingerprint": "ab" * 32,
        "counts": {"holdout_looks": 1, "candidates": 8, "failed": 1, "items_scored": 30, "items_scored_this_time": 30},
        "seconds": {"this_time": 1.5, "scoring_in_all": 1.2},
        "versions": {"python": "3.11.0"},
        "machine": {"platform": "Linux", "devices": []},
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    (folder / "recipe.yaml").write_text(dump_recipe(recipe()))
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")
