"""What is compared after a fault: the files of an undisturbed run, and what was paid for."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.faults.trial_run import ATTEMPTS, Place

TIMES = ("seconds", "machine", "versions")  # keys of result.json that may differ
LEFTOVERS = ("*.partial", "*.tmp", "*.incomplete")


@dataclass(frozen=True)
class Outcome:
    """What a finished trial has left: its result, and digests of the recipe and of the merged weights."""

    recipe: str
    result: str
    merged: str


def outcome(place: Place, uncompared: Sequence[str] = ()) -> Outcome:
    """The outcome of a finished run; `uncompared` are counts of the result that depend on the moment."""
    recipe = yaml.safe_load((place.run / "recipe.yaml").read_text())
    result = json.loads((place.run / "result.json").read_text())
    result = {key: value for key, value in result.items() if key not in TIMES}
    for count in ("items_scored_this_time", "holdout_looks", *uncompared):  # a killed look is a look
        result["counts"].pop(count)
    merged = hashlib.sha256((place.merged / "model.safetensors").read_bytes()).hexdigest()
    return Outcome(_digest(recipe), json.dumps(result, sort_keys=True), merged)


def differences(found: Outcome, reference: Outcome) -> list[str]:
    """What differs between two finished searches."""
    wrong = [f"another {name}" for name in ("recipe", "merged") if getattr(found, name) != getattr(reference, name)]
    if found.result != reference.result:
        wrong.append(f"another result: {_difference(json.loads(found.result), json.loads(reference.result))}")
    return wrong


def problems(place: Place, found: Outcome, reference: Outcome, again: int | None) -> list[str]:
    """What is wrong with a trial that was disturbed and repeated until its end; empty if nothing is.

    `again` chunks may have been paid for twice; None for a ledger that was edited.
    """
    wrong = differences(found, reference)
    if again is not None:
        wrong += _overpaid(place, again)
    wrong += [f"{path.name} was left" for pattern in LEFTOVERS for path in place.root.rglob(pattern)]
    return wrong


def _overpaid(place: Place, again: int) -> Iterator[str]:
    scored, paid = _scored(place), (place.root / ATTEMPTS).stat().st_size
    if len(set(scored)) < len(scored):
        yield "a chunk has two lines in the ledger"
    if paid > len(scored) + again:
        yield f"{paid} chunks were paid for, {len(scored)} are in the ledger"


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The keys that differ, with the beginning of their values."""
    keys = [key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key)]
    return "; ".join(f"{key} {str(found.get(key))[:300]}, not {str(wanted.get(key))[:300]}" for key in sorted(keys))


def paid_twice(place: Place) -> int:
    """The chunks that were scored more than once."""
    return max(0, (place.root / ATTEMPTS).stat().st_size - len(_scored(place)))


def _scored(place: Place) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in (place.run / "trials.jsonl").read_text().splitlines()]
    return [(line["key"], line["chunk"]) for line in lines if "scores" in line or "error" in line]


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def valid_recipe(folder: Path) -> bool:
    """Whether there is no recipe yet, or a whole one."""
    path = folder / "recipe.yaml"
    return not path.exists() or "merge_method" in yaml.safe_load(path.read_text())
