"""Which experts stay, from scores alone and from scores of merges: a backward elimination with few merges.

An expert passes if it is the best of its group of similar task vectors and lifts a task over the base. Of the merge of
all that pass, an expert leaves if the merge is no better with it than without it, the least useful one first. One that
alone lifts a task which no other lifts leaves only if the merge is worse with it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from evomerge.screening.config import LEAST, ScreenConfig
from evomerge.screening.gains import Gain, Scored, gain

Merge = tuple[str, ...]
MergeScorer = Callable[[Sequence[Merge]], Mapping[Merge, Scored]]  # a merge that cannot be scored is left out
BROKEN = Gain(float("-inf"), float("-inf"), float("-inf"), 0.0)
NEEDED = Gain(float("inf"), 0.0, float("inf"), 0.0)  # of an expert without which the merge cannot be scored


@dataclass
class Selection:
    """The state of a selection: `reasons` of the experts that have left, `contributions` of those in a merge.

    `alone` has the scores of each expert that could be scored, `weights` those of the tasks, `norms` the norms of the
    task vectors.
    """

    base: Scored
    alone: Mapping[str, Scored]
    weights: Mapping[str, float]
    config: ScreenConfig
    norms: Mapping[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    contributions: dict[str, Gain] = field(default_factory=dict)
    _gains: dict[str, dict[str, Gain]] = field(default_factory=dict, repr=False)

    def leave_similar(self, groups: Sequence[Merge]) -> None:
        """Of each group, all but the best expert leave; experts that always stay do so."""
        for group in groups:
            members = [label for label in group if label in self.alone]
            if len(members) < 2:
                continue
            best = min(members, key=self._place_in_group)
            for label in members:
                if label != best and label not in self.config.always:
                    self.reasons[label] = f"nearly the task vector of {best}, which scores {self._mean(best):.3f} alone"

    def leave_without_gain(self) -> None:
        """Experts leave that lift no task over the base; the best alone stay where too few would be left."""
        known = [label for label in sorted(self.alone) if label not in self.reasons]
        lifting = {label for label in known if any(one.low > 0 for one in self.task_gains(label).values())}
        lifting |= set(self.config.always)
        for label in sorted(known, key=lambda label: (-self._mean(label), label)):
            if label not in lifting and len(lifting) < LEAST:
                lifting.add(label)
            elif label not in lifting:
                self.reasons[label] = "lifts no task over the base"

    def leave_useless(self, score: MergeScorer) -> None:
        """Experts leave without which the merge is as good, and then the least useful ones down to `most`."""
        left = tuple(label for label in sorted(self.alone) if label not in self.reasons)
        smaller = {label: _without(left, label) for label in left}
        scored = dict(score([left, *smaller.values()])) if len(left) > LEAST else {}
        if left in scored:
            self.contributions = {label: self._loss(scored, left, label) for label in left}
            left = self._eliminate(left, scored, score)
        while self.config.most is not None and len(left) > self.config.most:
            free = [label for label in left if label not in self.config.always]
            label = min(free, key=lambda label: (self._is_needed(label, left), *self._rank(label)))
            self.reasons[label] = f"the {self.config.most} others lift the merge by more"
            left = _without(left, label)

    def _eliminate(self, left: Merge, scored: dict[Merge, Scored], score: MergeScorer) -> Merge:
        """Remove experts one by one where the merge is no worse without them; `scored` gets the merges of it."""
        order = sorted(left, key=self._rank)
        doubtful = [label for label in order if not self._stays(label, left)]
        crowded = len(left) - (self.config.most or len(left)) - len(doubtful)
        doubtful += [label for label in order if label not in doubtful][: max(0, crowded)]
        for label in doubtful:
            if label in self.config.always or len(left) <= LEAST:
                continue
            smaller = _without(left, label)
            scored |= {} if smaller in scored else score([smaller])
            self.contributions[label] = loss = self._loss(scored, left, label)
            if not self._stays(label, left):
                self.reasons[label] = f"the merge is as good without it ({loss.difference:+.3f} with it)"
                left = smaller
        return left

    def _stays(self, label: str, left: Merge) -> bool:
        """Whether a merge loses more than the standard error without an expert.

        One that no other can replace stays unless the merge gains as much without it: a search can give it the weight
        0, but it cannot bring it back.
        """
        loss = self.contributions[label]
        return loss.difference > loss.standard_error * (-1.0 if self._is_needed(label, left) else 1.0)

    def _is_needed(self, label: str, left: Merge) -> bool:
        """Whether an expert lifts a task alone by more than twice as much as any other one of `left`."""
        others = [self.task_gains(other) for other in left if other != label]
        gains = self.task_gains(label).items()
        return any(
            one.low > 0 and all(one.difference > 2 * other[task].difference for other in others) for task, one in gains
        )

    def task_gains(self, label: str) -> dict[str, Gain]:
        """Task → the gain of an expert over the base; computed once."""
        if label not in self._gains:
            self._gains[label] = {task: gain(self.alone[label], self.base, {task: 1.0}) for task in self.weights}
        return self._gains[label]

    def _loss(self, scored: Mapping[Merge, Scored], left: Merge, label: str) -> Gain:
        """What a merge loses without an expert; an endless loss where it cannot be scored without it."""
        smaller = scored.get(_without(left, label))
        return NEEDED if smaller is None else gain(scored[left], smaller, self.weights)

    def _rank(self, label: str) -> tuple[float, float, str]:
        """The least useful expert first."""
        return self.contributions.get(label, BROKEN).difference, self._mean(label), label

    def _place_in_group(self, label: str) -> tuple[bool, float, float, str]:
        """Of equal scores, that with the smallest change of the weights is first: noise makes a task vector longer."""
        return label not in self.config.always, -self._mean(label), self.norms.get(label, 0.0), label

    def _mean(self, label: str) -> float:
        return self.alone[label].mean(self.weights)


def _without(merge: Merge, label: str) -> Merge:
    return tuple(other for other in merge if other != label)
