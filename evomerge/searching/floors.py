"""Floors of tasks and bounds of lengths, as `objective.keep` gives them: `0.8`, `base` or `best_expert - 0.01`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.errors import ConfigError
from evomerge.schema import as_yaml
from evomerge.suggest import did_you_mean

BEST = "best_expert"


@dataclass(frozen=True)
class Floor:
    """The lowest accepted mean of a task: the mean of baseline `name` plus `margin`, or `margin` if no name.

    A `ceiling` bounds a length, which is negated in the means, from above: by that of `name` plus `margin` tokens.
    """

    name: str | None
    margin: float
    ceiling: bool = False

    @property
    def offset(self) -> float:
        """The margin in the direction in which higher is better."""
        return -self.margin if self.ceiling else self.margin

    def __str__(self) -> str:
        if self.name is None:
            return f"{self.margin:g}"
        sign = "−" if self.margin < 0 else "+"
        return f"{self.name} {sign} {abs(self.margin):g}" if self.margin else self.name


def read_floor(given: str | float, known: Sequence[str], where: str, ceiling: bool) -> Floor:
    """Read `0.8`, `base` or `best_expert - 0.01`; ConfigError names the key."""
    name, sign, margin = _parts(str(given))
    number = _number(margin)
    if not sign and (alone := _number(name)) is not None:
        return Floor(None, alone, ceiling)
    if name not in known:
        hint = f"give a number, or one of {', '.join(known)}, with `+ number` or `- number` after it"
        raise ConfigError(
            f"{where}={as_yaml(given)}: '{as_yaml(name)}' is no baseline{did_you_mean(name, known)}; {hint}"
        )
    if number is None:
        raise ConfigError(
            f"{where}={as_yaml(given)}: '{as_yaml(margin)}' is no number; write it as in `{as_yaml(name)} - 0.01`"
        )
    return Floor(name, -number if sign == "-" else number, ceiling)


def _parts(text: str) -> tuple[str, str, str]:
    """Name, sign and margin of `name - 0.01`; the sign must be between spaces, as labels may contain dashes."""
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
