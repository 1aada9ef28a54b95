"""Baselines that are the winner itself: the same recipe, or another recipe with the same weights."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from evomerge.recipes import Recipe
from evomerge.run_files import read_result
from evomerge.scoring import SLICES
from evomerge.searching import Candidate, Evaluator

KINDS = ("base", "uniform", "default")  # labels that are kinds of their own


def find_suspects(evaluator: Evaluator, winner: Candidate, baselines: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The baselines with other recipes than the winner's and the same score on every item of every slice."""

    def scores(key: str) -> list[dict[str, float]]:
        return [evaluator.item_scores(key, name) for name in SLICES]

    own = scores(winner.key)
    return tuple(c for c in baselines if c.key != winner.key and all(own) and scores(c.key) == own)


def same_weights(
    suspects: Sequence[Candidate], fingerprint: str, fingerprint_of: Callable[[Recipe], str], result: Path
) -> dict[str, str]:
    """Label → fingerprint of the suspects; those that an earlier `result` of the same winner has are not merged again.

    A suspect with the fingerprint of the winner has its weights.
    """
    recorded: dict[str, Any] = {}
    if suspects and result.is_file():
        earlier = read_result(result.parent)
        recorded = earlier.get("suspects", {}) if earlier.get("fingerprint") == fingerprint else {}
    return {c.label: str(recorded.get(c.label) or fingerprint_of(c.recipe)) for c in suspects}


def describe_twins(labels: Sequence[str], experts: Collection[str]) -> list[dict[str, str]]:
    """The baselines of these labels for result.json, each with its kind: base, expert, uniform, default or baseline."""

    def kind(label: str) -> str:
        return "expert" if label in experts else label if label in KINDS else "baseline"

    return [{"label": label, "kind": kind(label)} for label in labels]
