"""Descent on the slopes of a smooth loss: one backward pass gives the derivative with respect to every coordinate.

The loss of an item is −log softmax at the right choice, or the negative log-likelihood of its target. Coordinates
without a slope, such as densities, keep the values of the point that the descent starts from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.optimizers import Coordinate, Descent, Surrogate, Terms, Vector
from evomerge.optimizers._descent import Batch, Descender, DescentSettings, Origin, Passes, Rate, Share

PROPOSES_CANDIDATES = False  # so a mirror would stay empty


class Slope:
    """A single descent; it asks for no candidate, and its average is the result."""

    def __init__(self, descender: Descender) -> None:
        self._descender = descender

    def descent(self, terms: Terms) -> Descent:
        """The requests of the descent."""
        return self._descender.run(terms)

    def ask(self, surrogate: Surrogate | None = None) -> list[Vector]:
        """Nothing: the result is the centre."""
        return []

    def tell(self, vectors: Sequence[Vector], losses: Sequence[Any]) -> None:
        """Ignore the losses."""

    def centre(self) -> Vector | None:
        """The averaged iterate; None before the first step."""
        return self._descender.average if self._descender.steps else None


def uses_slopes(settings: Mapping[str, Any]) -> bool:
    """Always."""
    return True


def create(
    coordinates: Sequence[Coordinate],
    seeds: Sequence[Vector],
    seed: int,
    *,
    rate: Rate = 0.03,
    batch: Batch = 16,
    passes: Passes = 3,
    validation: Share = 0.0,
    origin: Origin = "auto",
) -> Slope:
    """Steps of at most `rate` of the cube's edge on `batch` items each; every item of the slice is used `passes` times.

    With `validation`, the descent ends early where it no longer lowers the loss of that share of the items. It starts
    from the middle of the cube, or from the best of the seeds.
    """
    return Slope(Descender(coordinates, seeds, DescentSettings(rate, batch, passes, validation, origin), seed))
