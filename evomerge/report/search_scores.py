"""The scores on the search slice, computed from the lines of a ledger as the search computed them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.ledger import chunks_of, lengths_of, plan_of
from evomerge.scoring import Chunk, Plan
from evomerge.searching import FAILED, Fitness, ItemOrder, Objective


@dataclass(frozen=True)
class CandidateScore:
    """The score of one candidate on the search slice, NaN if it failed; `number` counts from 1 in the order proposed.

    If the candidate was stopped before the whole slice was scored, it is not `complete` and its score is an estimate.
    `items` is the number of items that it was scored on.
    """

    number: int
    key: str
    score: float
    complete: bool = True
    error: str | None = None
    fitness: Fitness = FAILED
    items: int = 0


class SearchScores:
    """Reads a ledger's scores on the search slice; `baselines` maps labels to keys."""

    def __init__(
        self, header: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], baselines: Mapping[str, str]
    ) -> None:
        self._plan, self._baselines = plan_of(header, lines), baselines
        levels: Mapping[str, str] = next((line["levels"] for line in lines if "levels" in line), {})
        self._order = ItemOrder(_original_chunks(self._plan), 1, levels)
        config = header["config"]
        settings = config.get("objective") or {}
        names = tuple(config["experts"]), tuple(baselines), self._plan.generating, tuple(self._plan.aggregates)
        self._objective = Objective(self._plan.weights, *names, **settings)
        self._trials: dict[str, dict[str, list[Any]]] = {}
        self._lengths: dict[str, dict[str, float]] = {}  # key → item → length of its answers
        self._errors: dict[str, str] = {}
        self._stopped = {key for line in lines for key in line.get("race", {}).get("stopped", {})}
        self._stopped |= {line["key"] for line in lines if "learnt" in line and line.get("score") is not None}
        self._scored = [(x["key"], x["chunk"], x["scores"]) for x in lines if "scores" in x]
        chunks = chunks_of(header, lines)
        for line in lines:
            if "tokens" in line:
                self._lengths.setdefault(line["key"], {}).update(lengths_of(line, chunks))
            if str(line.get("chunk", "")).startswith("search/"):  # a recipe scored only elsewhere is no candidate
                self._add(line)
        means = {label: self._measures(key) for label, key in baselines.items()}
        self._baseline_means = {label: by_task for label, by_task in means.items() if by_task}

    @property
    def weights(self) -> Mapping[str, float]:
        """Task → its weight in the score."""
        return self._objective.weights

    def holdout(self) -> dict[str, dict[str, Any]]:
        """Key → the score of each item of holdout that the model was scored on."""
        chunks = {chunk.id: chunk.items for chunk in self._plan.chunks.get("holdout", ())}
        found: dict[str, dict[str, Any]] = {}
        for key, chunk, scores in self._scored:
            if chunk in chunks:
                found.setdefault(key, {}).update(zip(chunks[chunk], scores, strict=True))
        return found

    def items_scored(self) -> dict[str, int]:
        """Step → the items that models were scored on in it: baselines and candidates on search, the other slices."""
        counts = dict.fromkeys(("baselines, search", "candidates, search", "select", "holdout"), 0)
        baselines = set(self._baselines.values())
        for key, chunk, scores in self._scored:
            slice_name = chunk.partition("/")[0]
            step = f"{'baselines' if key in baselines else 'candidates'}, search"
            counts[step if slice_name == "search" else slice_name] += len(scores)
        return counts

    def baselines(self) -> dict[str, Fitness]:
        """The fitness of every baseline that could be scored, by label."""
        means = self._baseline_means
        return {label: self._objective.fitness(by_task, means) for label, by_task in means.items()}

    def candidates(self, asked: Sequence[str]) -> tuple[CandidateScore, ...]:
        """Every candidate except the baselines, in the order of the keys in `asked`.

        The order of the ledger's lines would not do, because it depends on the timing of the workers.
        """
        place = {key: number for number, key in enumerate(asked)}
        keys = [key for key in self._trials if key not in self._baselines.values()]
        keys.sort(key=lambda key: place.get(key, len(place)))
        return tuple(self._candidate(number, key) for number, key in enumerate(keys, 1))

    def _add(self, line: Mapping[str, Any]) -> None:
        scores = self._trials.setdefault(line["key"], {})
        if "error" in line:
            self._errors[line["key"]] = line["error"]
        else:
            scores[line["chunk"]] = line["scores"]

    def _candidate(self, number: int, key: str) -> CandidateScore:
        error, items = self._errors.get(key), self._items(key)
        if error is not None and items and key in self._stopped:
            error = None  # it failed on a chunk scored in advance, which the search never used
        if error is not None or not items:
            return CandidateScore(number, key, math.nan, error=error, items=len(items))
        fitness = self._objective.fitness(self._measures(key), self._baseline_means)
        complete = len(items) == len(set(self._plan.items("search")))
        score = fitness.score if complete or self._objective.corpus_level else self._estimate(key, items)
        return CandidateScore(number, key, score, complete, fitness=fitness, items=len(items))

    def _measures(self, key: str) -> dict[str, float]:
        items, lengths = self._items(key), self._lengths.get(key, {})
        return self._plan.measures(items, {item: lengths[item] for item in items if item in lengths})

    def _estimate(self, key: str, items: Mapping[str, float]) -> float:
        """The score estimated from some items, weighted by the sampling rates of their levels; NaN without items."""
        scores = self._objective.items(items, self._baseline_means, self._lengths.get(key, {}))
        if not scores:
            return math.nan  # none of the items belongs to a task of the objective
        strata = self._order.strata(list(scores), self._objective.weights)
        return float(strata.means(np.array([list(scores.values())]))[0])

    def _items(self, key: str) -> dict[str, Any]:
        scores = self._trials.get(key, {})
        chunks = [chunk for chunk in self._plan.chunks["search"] if chunk.id in scores]
        return {item: s for chunk in chunks for item, s in zip(chunk.items, scores[chunk.id], strict=True)}


def _original_chunks(plan: Plan) -> tuple[Chunk, ...]:
    """The chunks of the search slice before regrouping: `search/NUMBER`; regrouped chunks have a longer id."""
    return tuple(chunk for chunk in plan.chunks["search"] if chunk.id.count("/") == 1)
