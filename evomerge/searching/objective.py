"""The objective: from the task means of a candidate to its score or scores, and the violation of its constraints.

Task means are the only input, so the losses that an optimizer gets are a function of the ledger.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from evomerge.errors import ConfigError, RunError
from evomerge.schema import EMPTY, Range
from evomerge.scoring import task_of
from evomerge.searching.floors import BEST, Floor, read_floor
from evomerge.searching.names import Names

Means = Mapping[str, float]  # task → mean of its items, and measures of length
References = Mapping[str, Means]  # baseline → its means on the same slice
Loss = float | tuple[float, ...]
FLOOR_TOLERANCE = 1e-9  # a mean may be lower than its floor by this rounding error
MIN_GAIN = 0.02  # a smaller gain of the best expert over the base is too uncertain to normalise by


@dataclass(frozen=True)
class Fitness:
    """A candidate's result on one slice: the score, its value per task, and the total violation of floors."""

    score: float
    values: Mapping[str, float] = field(default_factory=dict)
    violation: float = 0.0

    @property
    def rank(self) -> tuple[float, float]:
        """A sort key, larger is better: smaller violation first, then the higher score (Deb 2000)."""
        return (-self.violation, self.score)


FAILED = Fitness(math.nan, violation=math.inf)


class Objective:
    """The weighted mean of the task means, as changed by the configuration's `objective` section.

    `maximise` names the tasks of the mean, with weights if it is a mapping; the default is all. `normalise` scales each
    task so that the base has 0 and the task's best expert 1. `front` makes every task an objective of its own. `keep`
    gives tasks a floor: a number, `base`, `uniform`, an expert, or `best_expert`, optionally with a margin as in
    `best_expert - 0.01`. A baseline stands for its mean on the same slice.

    Beside the tasks there are measures of length: `TASK.tokens` for each of the `generating` tasks, and `tokens`. In
    `keep` they have a ceiling instead of a floor. `aggregated` lists the tasks with a corpus-level metric.

    `tasks` holds the names of what counts, `weights` the weight of each task's items: of the task and of its length.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        experts: Sequence[str] = (),
        baselines: Sequence[str] = (),
        generating: Sequence[str] = (),
        aggregated: Collection[str] = (),
        *,
        maximise: Sequence[str] | Mapping[str, Annotated[float, Range(0, 1e6, without=(0,))]] | None = None,
        normalise: bool = False,
        front: bool = False,
        keep: Mapping[str, str | float] | None = None,
    ) -> None:
        self._names = Names(weights, generating)
        self.tasks = self._names.read(weights if maximise is None else maximise, "objective.maximise")
        floors = {self._names.one(name, "objective.keep"): (name, given) for name, given in (keep or {}).items()}
        if not self.tasks:
            raise ConfigError("objective.maximise is empty; name at least one task")
        if front and len(self.tasks) < 2:
            raise ConfigError(f"objective.front: {self.tasks[0]} alone is no front; name two tasks or set it to false")
        self.front, self._normalise, self._experts = front, normalise, tuple(experts)
        self._given_weights = isinstance(maximise, Mapping)
        given = dict(zip(self.tasks, maximise.values(), strict=True)) if isinstance(maximise, Mapping) else {}
        self.term_weights = self._term_weights(weights, given)
        self.weights: dict[str, float] = {}
        for name, weight in self.term_weights.items():
            self.weights[self._names.task(name)] = self.weights.get(self._names.task(name), 0.0) + weight
        self.corpus_level = any(task in aggregated for task in self.weights)
        labels = [*baselines, BEST]
        self._floors = {
            name: read_floor(given, labels, f"objective.keep.{shown}", self._names.is_length(name))
            for name, (shown, given) in floors.items()
        }
        self.lengths = tuple(dict.fromkeys(n for n in (*self.tasks, *self._floors) if self._names.is_length(n)))

    def _term_weights(self, weights: Mapping[str, float], given: Mapping[str, float]) -> dict[str, float]:
        """Name → its weight in the score; by default a length in tokens has none, as it is in another unit."""
        if given:
            return dict(given)
        lengths = [name for name in self.tasks if self._names.is_length(name)]
        if not lengths or self._normalise or len(lengths) == len(self.tasks):
            return {name: weights[self._names.task(name)] for name in self.tasks}
        if not self.front:
            raise ConfigError(
                f"objective.maximise: {lengths[0]} counts tokens; give weights, as in "
                f"{{TASK: 1, {lengths[0]}: 0.002}}, or set normalise or front"
            )
        return {name: weights[name] for name in self.tasks if name not in lengths}

    def __str__(self) -> str:
        """The objective in words, for the `check` command."""
        one = " and ".join(self.tasks) + ", a front" if self.front else "mean of " + ", ".join(self.tasks)
        if self._given_weights and not self.front:
            one = "mean of " + ", ".join(f"{weight:g} × {name}" for name, weight in self.term_weights.items())
        unit = ", from 0 for the base to 1 for the best expert" if self._normalise else ""
        kept = ", ".join(f"{name} {'≤' if floor.ceiling else '≥'} {floor}" for name, floor in self._floors.items())
        return one + unit + (f"; keep {kept}" if kept else "")

    @property
    def loss_count(self) -> int:
        """The number of losses of a candidate: 1, or the number of tasks for a front."""
        return len(self.tasks) if self.front else 1

    @property
    def single_score(self) -> bool:
        """Whether the score alone ranks candidates and is a mean over items, without a corpus-level metric."""
        return not self.front and not self._floors and not self.corpus_level

    @property
    def uses_baselines(self) -> bool:
        """Whether a candidate's fitness depends on the scores of baselines."""
        return self._normalise or any(floor.name for floor in self._floors.values())

    def fitness(self, means: Means, references: References) -> Fitness:
        """The fitness of a candidate with these task means; tasks without a mean do not count.

        `references` holds the task means of the baselines on the same slice.
        """
        units = {task: self._origin_and_unit(task, references) for task in self.tasks if task in means}
        values = {task: (means[task] - origin) / unit for task, (origin, unit) in units.items()}
        if not values:
            return FAILED
        counting = {name: value for name, value in values.items() if name in self.term_weights}
        if not counting:
            return FAILED
        return Fitness(self._mean_of_terms(counting), values, self._violation(means, references))

    def items(
        self, scores: Mapping[str, Any], references: References, lengths: Mapping[str, float] = EMPTY
    ) -> dict[str, float]:
        """Item scores in the objective's units, for the objective's tasks: their weighted mean is the score.

        `lengths` has the length of the answers of each item. The score of an item whose task and length both count is
        their weighted mean.
        """
        units = {name: self._origin_and_unit(name, references) for name in self.term_weights}
        terms: dict[str, list[str]] = {}
        for name in self.term_weights:
            terms.setdefault(self._names.task(name), []).append(name)
        found = {}
        for item, score in scores.items():
            parts = {}
            for name in terms.get(task_of(item), ()):
                value = -lengths[item] if self._names.is_length(name) else score
                parts[name] = (value - units[name][0]) / units[name][1]
            if parts:
                found[item] = self._mean_of_terms(parts)
        return found

    def _mean_of_terms(self, values: Mapping[str, float]) -> float:
        """The weighted mean of some terms; that of one term is its value to the bit."""
        if len(values) == 1:
            return next(iter(values.values()))
        total = sum(self.term_weights[name] for name in values)
        return sum(self.term_weights[name] * value for name, value in values.items()) / total

    def loss_weights(self, references: References) -> dict[str, float]:
        """Task → the weight of its loss: that of its mean, divided by the unit in which the task is measured."""
        tasks = {task: weight for task, weight in self.term_weights.items() if not self._names.is_length(task)}
        return {task: weight / self._origin_and_unit(task, references)[1] for task, weight in tasks.items()}

    def loss(self, fitness: Fitness) -> Loss:
        """The loss that an optimizer minimises: the negative score, or +inf for a failure.

        This is the only place where the sign changes. With floors, the losses of candidates that keep them are mapped
        into −1 … 1, and the loss of a candidate that violates them is 1 + violation. Every candidate that keeps the
        floors is thus better, and a smaller violation is better than a larger one (Deb 2000).
        """
        if math.isnan(fitness.score):
            return self._same_for_each(math.inf)
        if fitness.violation > 0:
            return self._same_for_each(1.0 + fitness.violation)
        scores = tuple(fitness.values.get(task, math.nan) for task in self.tasks) if self.front else (fitness.score,)
        losses = tuple(-score / (1.0 + abs(score)) if self._floors else -score for score in scores)
        return losses if self.front else losses[0]

    def _same_for_each(self, loss: float) -> Loss:
        return (loss,) * self.loss_count if self.front else loss

    def _origin_and_unit(self, task: str, references: References) -> tuple[float, float]:
        """A task's origin and unit: the base's mean and the best expert's gain over it, or 1 for too small a gain."""
        if not self._normalise:
            return 0.0, 1.0
        base = _mean("base", task, references)
        gain = self._best(task, references) - base
        return base, gain if gain >= MIN_GAIN else 1.0

    def floors(self, references: References) -> dict[str, float]:
        """Task → the lowest accepted mean, for the tasks with a floor."""
        return {task: self._lowest_mean(task, floor, references) for task, floor in self._floors.items()}

    def _violation(self, means: Means, references: References) -> float:
        """The sum of the differences by which task means are below their floors, in the tasks' own units."""
        floors = self.floors(references)
        gaps = {task: floor - means[task] for task, floor in floors.items() if task in means}
        return math.fsum(self._share(task, gap, floors[task]) for task, gap in gaps.items() if gap > FLOOR_TOLERANCE)

    def _share(self, task: str, gap: float, level: float) -> float:
        """A gap in the unit in which violations are added: that of a length as a share of its ceiling."""
        return gap / max(1.0, abs(level)) if self._floors[task].ceiling else gap

    def _lowest_mean(self, task: str, floor: Floor, references: References) -> float:
        if floor.name is None:
            return floor.offset
        best = floor.name == BEST
        return floor.offset + (self._best(task, references) if best else _mean(floor.name, task, references))

    def _best(self, task: str, references: References) -> float:
        scored = [references[label][task] for label in self._experts if task in references.get(label, {})]
        if not scored:
            raise RunError(f"objective: no expert could be scored on {task}; the reasons are in trials.jsonl")
        return max(scored)


def _mean(label: str, task: str, references: References) -> float:
    if task not in references.get(label, {}):
        raise RunError(f"objective: {label} could not be scored on {task}; the reason is in trials.jsonl")
    return references[label][task]
