"""The section `screen` of an experiment's configuration."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

from evomerge.errors import ConfigError
from evomerge.schema import MAX_COUNT, Label, Range
from evomerge.suggest import did_you_mean

LEAST = 2  # experts that stay: one alone is no merge


@dataclass(frozen=True, kw_only=True)
class ScreenConfig:
    """How many experts a search merges.

    With more experts than `most`, the experts are screened first; null merges all of them. Task vectors whose cosine is
    at least `similar` are one group, of which one expert stays. The experts in `always` stay in any case.
    """

    most: Annotated[int, Range(LEAST, MAX_COUNT)] | None = None
    similar: Annotated[float, Range(0, 1, without=(0,))] = 0.9
    always: Sequence[Label] = ()

    def applies_to(self, experts: Collection[str]) -> bool:
        """Whether so many experts are screened."""
        return self.most is not None and len(experts) > self.most

    def check(self, experts: Collection[str]) -> None:
        """ConfigError for a label in `always` that is no expert, or for more labels than may stay."""
        if unknown := next((label for label in self.always if label not in experts), None):
            raise ConfigError(f"screen.always: '{unknown}' is not an expert{did_you_mean(unknown, list(experts))}")
        if self.most is not None and len(set(self.always)) > self.most:
            raise ConfigError(f"screen.always names {len(set(self.always))} experts; screen.most is {self.most}")
