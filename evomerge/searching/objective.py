"""What a candidate is worth: one score, or one for each task, and whether it keeps what must be kept.

The means of the tasks go in, nothing else, so that what an optimizer is told is a function of the ledger.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evomerge.errors import ConfigError, RunError
from evomerge.schema import shown
from evomerge.scoring import task_of
from evomerge.suggest import nearest

Means = Mapping[str, float]  # task → mean of its items
References = Mapping[str, Means]  # baseline → its means on the same slice
Loss = float | tuple[float, ...]
BEST = "best_expert"
ROUNDING = 1e-9  # a floor is kept where no more than this is missing
GAIN = 0.02  # an expert that gains less on a task than this gives no unit to measure by


@dataclass(frozen=True)
class Fitness:
    """A candidate on one slice: its score, what is in it task by task, and by how much it breaks its floors."""

    score: float
    values: Mapping[str, float] = field(default_factory=dict)
    violation: float = 0.0

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better: whoever keeps every floor first, then the smaller breach, then the score (Deb 2000)."""
        return (-self.violation, self.score)


FAILED = Fitness(math.nan, violation=math.inf)


@dataclass(frozen=True)
class Floor:
    """At least `margin` above a baseline, or the margin itself where no baseline is named."""

    name: str | None
    margin: float

    def __str__(self) -> str:
        if self.name is None:
            return f"{self.margin:g}"
        sign = "−" if self.margin < 0 else "+"
        return f"{self.name} {sign} {abs(self.margin):g}" if self.margin else self.name


class Objective:
    """The weighted mean of the tasks, or what `objective:` makes of it.

    `maximise` names the tasks that count (all), `normalise` measures each from the base, 0, to the best expert at it,
    1, `front` makes every task an objective of its own, and `keep` gives tasks a floor: a number, `base`, `uniform`,
    an expert, or `best_expert`, as in `best_expert - 0.01`. All baselines stand with their means on the same slice.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        experts: Sequence[str] = (),
        baselines: Sequence[str] = (),
        *,
        maximise: Sequence[str] | None = None,
        normalise: bool = False,
        front: bool = False,
        keep: Mapping[str, str | float] | None = None,
    ) -> None:
        self.tasks = tuple(weights) if maximise is None else tuple(dict.fromkeys(maximise))
        _refuse_unknown(self.tasks, weights, "objective.maximise")
        _refuse_unknown(keep or {}, weights, "objective.keep")
        if not self.tasks:
            raise ConfigError("objective.maximise is empty; name at least one task")
        if front and len(self.tasks) < 2:
            raise ConfigError(f"objective.front: {self.tasks[0]} alone is no front; name two tasks or set it to false")
        self.weights = {task: weights[task] for task in self.tasks}
        self.front, self._normalise, self._experts = front, normalise, tuple(experts)
        names = [*baselines, BEST]
        self._floors = {task: _floor(given, names, f"objective.keep.{task}") for task, given in (keep or {}).items()}

    def __str__(self) -> str:
        """In words, for whoever checks a configuration."""
        one = " and ".join(self.tasks) + ", a front" if self.front else "mean of " + ", ".join(self.tasks)
        unit = ", from 0 for the base to 1 for the best expert" if self._normalise else ""
        kept = ", ".join(f"{task} ≥ {floor}" for task, floor in self._floors.items())
        return one + unit + (f"; keep {kept}" if kept else "")

    @property
    def dimensions(self) -> int:
        """How many losses a candidate has."""
        return len(self.tasks) if self.front else 1

    @property
    def scalar(self) -> bool:
        """Whether one number says all: no front, no floors."""
        return not self.front and not self._floors

    @property
    def relative(self) -> bool:
        """Whether scores depend on those of the baselines."""
        return self._normalise or any(floor.name for floor in self._floors.values())

    def fitness(self, means: Means, references: References) -> Fitness:
        """What a candidate with these task means is worth beside the baselines'; tasks without items do not count."""
        units = {task: self._unit(task, references) for task in self.tasks if task in means}
        values = {task: (means[task] - zero) / one for task, (zero, one) in units.items()}
        if not values:
            return FAILED
        total = sum(self.weights[task] for task in values)
        score = sum(self.weights[task] * value for task, value in values.items()) / total
        return Fitness(score, values, self._violation(means, references))

    def items(self, scores: Mapping[str, float], references: References) -> dict[str, float]:
        """Item scores in the objective's units, of the tasks that count: their weighted mean is the score."""
        units = {task: self._unit(task, references) for task in self.tasks}
        kept = ((item, score, task_of(item)) for item, score in scores.items() if task_of(item) in units)
        return {item: (score - units[task][0]) / units[task][1] for item, score, task in kept}

    def loss(self, fitness: Fitness) -> Loss:
        """The one sign flip: optimizers minimise, and a failure is worse than anything.

        Where there are floors, losses of those that keep them are squeezed into −1 … 1, and one that breaks them has 1
        and its breach on top: below every other, better where it breaks less (Deb 2000).
        """
        if math.isnan(fitness.score):
            return self._all(math.inf)
        if fitness.violation > 0:
            return self._all(1.0 + fitness.violation)
        scores = tuple(fitness.values.get(task, math.nan) for task in self.tasks) if self.front else (fitness.score,)
        losses = tuple(-score / (1.0 + abs(score)) if self._floors else -score for score in scores)
        return losses if self.front else losses[0]

    def _all(self, loss: float) -> Loss:
        return (loss,) * self.dimensions if self.front else loss

    def _unit(self, task: str, references: References) -> tuple[float, float]:
        """A task's zero and one: the base, and the gain of the best expert where there is one worth the name."""
        if not self._normalise:
            return 0.0, 1.0
        base = _mean("base", task, references)
        gain = self._best(task, references) - base
        return base, gain if gain >= GAIN else 1.0

    def floors(self, references: References) -> dict[str, float]:
        """The lowest mean that each task with a floor may have."""
        return {task: self._level(task, floor, references) for task, floor in self._floors.items()}

    def _violation(self, means: Means, references: References) -> float:
        """The sum of what is missing to the floors, in the tasks' own units."""
        levels = self.floors(references)
        missing = (level - means[task] for task, level in levels.items() if task in means)
        return math.fsum(gap for gap in missing if gap > ROUNDING)

    def _level(self, task: str, floor: Floor, references: References) -> float:
        if floor.name is None:
            return floor.margin
        best = floor.name == BEST
        return floor.margin + (self._best(task, references) if best else _mean(floor.name, task, references))

    def _best(self, task: str, references: References) -> float:
        scored = [references[label][task] for label in self._experts if task in references.get(label, {})]
        if not scored:
            raise RunError(f"objective: no expert could be scored on {task}; the reasons are in trials.jsonl")
        return max(scored)


def _mean(label: str, task: str, references: References) -> float:
    if task not in references.get(label, {}):
        raise RunError(f"objective: {label} could not be scored on {task}; the reason is in trials.jsonl")
    return references[label][task]


def _floor(given: str | float, known: Sequence[str], where: str) -> Floor:
    """Read `0.8`, `base` or `best_expert - 0.01`; ConfigError names the key."""
    name, sign, margin = _parts(str(given))
    number = _number(margin)
    if not sign and (alone := _number(name)) is not None:
        return Floor(None, alone)
    if name not in known:
        hint = f"give a number, or one of {', '.join(known)}, with `+ number` or `- number` after it"
        raise ConfigError(f"{where}={shown(given)}: '{shown(name)}' is no baseline{nearest(name, known)}; {hint}")
    if number is None:
        raise ConfigError(
            f"{where}={shown(given)}: '{shown(margin)}' is no number; write it as in `{shown(name)} - 0.01`"
        )
    return Floor(name, -number if sign == "-" else number)


def _parts(text: str) -> tuple[str, str, str]:
    """`name - 0.01` in three; a label may have spaces and dashes of its own, so the sign stands between spaces."""
    for sign in ("-", "+"):
        name, found, margin = text.rpartition(f" {sign} ")
        if found:
            return name.strip(), sign, margin.strip()
    return text.strip(), "", "0"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _refuse_unknown(given: Sequence[str] | Mapping[str, object], known: Mapping[str, float], where: str) -> None:
    for task in given:
        if task not in known:
            raise ConfigError(f"{where}: {shown(task)} is not one of the scorer's tasks{nearest(task, known)}")
