"""Items of holdout that the winner answers better or worse than a baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_SHOWN = 20  # items of each direction that a report shows with their text


@dataclass(frozen=True)
class Flip:
    """An item with different scores of the winner and a baseline."""

    item: str
    winner: float
    baseline: float

    @property
    def won(self) -> bool:
        """Whether the winner has the higher score."""
        return self.winner > self.baseline


def flipped_items(winner: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[Flip]:
    """The items with different scores, the largest differences first, else in the order of the slice.

    Items of a corpus-level metric have no scores of their own and are left out.
    """
    flips = [
        Flip(item, float(score), float(baseline[item]))
        for item, score in winner.items()
        if isinstance(score, int | float) and isinstance(baseline.get(item), int | float) and score != baseline[item]
    ]
    return sorted(flips, key=lambda flip: -abs(flip.winner - flip.baseline))


def shown_flips(flips: Sequence[Flip], won: bool) -> list[Flip]:
    """The first MOST_SHOWN flips in which the winner is better, or in which it is worse."""
    return [flip for flip in flips if flip.won == won][:MOST_SHOWN]
