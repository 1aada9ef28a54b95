"""What CMA-ES keeps of an asynchronous search: outstanding points, and results that no update has used yet."""

from dataclasses import dataclass, field

from evomerge.optimizers import Vector


@dataclass
class Arrivals:
    """Points are numbered from 1 in the order proposed; each belongs to the `run` in which it was drawn.

    `waiting` are vectors that were drawn and not yet proposed, `results` vectors of the present run with their losses,
    in the order learnt, and `seed_losses` maps the place of a seed to its loss.
    """

    proposed: int = 0
    run: int = 0
    waiting: list[Vector] = field(default_factory=list)
    results: list[tuple[Vector, float]] = field(default_factory=list)
    seed_losses: dict[int, float] = field(default_factory=dict)
    outstanding: dict[int, tuple[int, Vector]] = field(default_factory=dict)

    def propose(self, drawn: Vector) -> Vector:
        """Give the vector the next number."""
        self.proposed += 1
        self.outstanding[self.proposed] = self.run, drawn
        return drawn

    def take(self, number: int) -> tuple[int, Vector]:
        """The run and the vector of an outstanding point, which is outstanding no longer."""
        return self.outstanding.pop(number)
