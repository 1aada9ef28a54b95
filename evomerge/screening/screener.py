"""One screening: scores of the base, of each expert alone and of a few merges, and the row of each expert."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.audit import TaskVectors
from evomerge.errors import RunError
from evomerge.recipes import ModelRef
from evomerge.scoring import task_of
from evomerge.screening.config import ScreenConfig
from evomerge.screening.gains import Gain, Scored
from evomerge.screening.groups import similar_groups
from evomerge.screening.merges import MergeOptions, alone_recipe, base_recipe, equal_merge
from evomerge.screening.selection import Merge, Selection
from evomerge.searching import Candidate, Evaluator, TimedEvaluation

DIGITS = 6
UNCHANGED = "equal to the base"
STEP = "screening merges"  # left out where time is short
SHARE = 0.25  # of the time left, for the models alone, and again for merges


class Screener:
    """Chooses among experts (label → reference) by their scores on the search slice of an evaluator.

    `weights` are those of the tasks; a task that the search does not maximise is left out. `timed` is of the evaluator.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        timed: TimedEvaluation,
        base: ModelRef,
        experts: Mapping[str, ModelRef],
        vectors: TaskVectors,
        weights: Mapping[str, float],
        config: ScreenConfig,
        options: MergeOptions,
    ) -> None:
        self._evaluator, self._base, self._experts, self._vectors = evaluator, base, dict(experts), vectors
        self._weights, self._config = dict(weights), config
        self._options, self._timed = options, timed
        self._scored_keys: set[str] = set()

    def run(self) -> dict[str, Any]:
        """The record of the screening: `kept` labels, in the order of the experts, and a row for each expert.

        `scored` has the keys of the recipes that were scored, `base` the scores of the base.

        RunError if the base, or every expert, cannot be scored.
        """
        base, alone = self._score_alone()
        norms = dict(zip(self._vectors.labels, self._vectors.norms.tolist(), strict=True))
        selection = Selection(base, alone, self._weights, self._config, norms)
        unchanged = (label for label in alone if not norms[label] and label not in self._config.always)
        selection.reasons |= dict.fromkeys(unchanged, UNCHANGED)
        groups = similar_groups(self._vectors.labels, self._vectors.cosines, self._config.similar)
        selection.leave_similar(groups)
        selection.leave_without_gain()
        selection.leave_useless(self._score_merges)
        kept = [label for label in self._experts if label in alone and label not in selection.reasons]
        if not kept:
            raise RunError("no expert differs from the base; give experts that were fine-tuned from it")
        shown = {"base": _rounded(base.tasks), "base_score": round(base.mean(self._weights), DIGITS)}
        rows = [self._row(label, selection, groups) for label in self._experts]
        return {"kept": kept, **shown, "rows": rows, "scored": sorted(self._scored_keys)}

    def _score_alone(self) -> tuple[Scored, dict[str, Scored]]:
        base = Candidate.of("base", base_recipe(self._base, self._options))
        experts = {
            label: Candidate.of(label, alone_recipe(self._base, ref, self._options))
            for label, ref in self._experts.items()
        }
        self._evaluator.clear_failures(base.key, "search")
        self._timed.evaluate([base, *experts.values()], "search", SHARE)
        scored = self._scored(base)
        alone = {label: found for label, one in experts.items() if (found := self._scored(one))}
        if scored is None or not alone:
            error = self._evaluator.error((base if scored is None else next(iter(experts.values()))).key, "search")
            who = "the base itself" if scored is None else "every expert"
            raise RunError(f"{who} cannot be scored: {error}; mend that, then repeat the command")
        return scored, alone

    def _score_merges(self, merges: Sequence[Merge]) -> dict[Merge, Scored]:
        refs = {merge: [self._experts[label] for label in merge] for merge in merges}
        found = {
            merge: Candidate.of("+".join(merge), equal_merge(self._base, experts, self._options))
            for merge, experts in refs.items()
        }
        chunks = self._evaluator.plan.chunks["search"]
        if not self._timed.affords(STEP, self._evaluator.missing_items(list(found.values()), chunks), SHARE):
            return {}
        self._evaluator.evaluate(list(found.values()), "search")
        return {merge: scored for merge, one in found.items() if (scored := self._scored(one))}

    def _scored(self, candidate: Candidate) -> Scored | None:
        self._scored_keys.add(candidate.key)
        means = self._evaluator.means(candidate.key, "search")
        if not means:
            return None
        items = self._evaluator.item_scores(candidate.key, "search").items()
        kept = {item: float(score) for item, score in items if task_of(item) not in self._evaluator.plan.aggregates}
        return Scored({task: means[task] for task in self._weights}, kept)

    def _row(self, label: str, selection: Selection, groups: Sequence[Merge]) -> dict[str, Any]:
        """What the record says of an expert."""
        place, alone = self._vectors.labels.index(label), selection.alone.get(label)
        row: dict[str, Any] = {"label": label, "kept": alone is not None and label not in selection.reasons}
        row["norm"] = round(self._vectors.relative[place], DIGITS)
        row["like"] = [other for group in groups if label in group for other in group if other != label]
        if alone is None:
            key = alone_recipe(self._base, self._experts[label], self._options).key()
            return row | {"reason": f"cannot be scored: {self._evaluator.error(key, 'search')}"}
        gains = selection.task_gains(label)
        best = max(gains, key=lambda task: gains[task].low)
        contribution = selection.contributions.get(label)
        row |= {"tasks": _rounded(alone.tasks), "score": round(alone.mean(self._weights), DIGITS)}
        row |= {"best_task": best, "gain": _numbers(gains[best])}
        row["contribution"] = _numbers(contribution) if contribution else None
        why = selection.reasons.get(label) or _why_kept(label, best, gains[best], contribution, self._config)
        return row | {"reason": why}


def _why_kept(label: str, task: str, best: Gain, contribution: Gain | None, config: ScreenConfig) -> str:
    if contribution and contribution.difference > contribution.standard_error:
        return f"lifts {task}, and the merge is better with it"
    if label in config.always:
        return "named in screen.always"
    if best.low <= 0:
        return "among the best alone"
    return f"lifts {task}, which no other lifts as much" if contribution else f"lifts {task}"


def _numbers(gain: Gain) -> dict[str, float | None]:
    values = {"difference": gain.difference, "low": gain.low, "high": gain.high}
    return {name: round(value, DIGITS) if math.isfinite(value) else None for name, value in values.items()}


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, DIGITS) for name, value in values.items()}
