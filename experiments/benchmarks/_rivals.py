"""What the optimizers are measured by: the search that mergekit-evolve codes, and recipes that need no search."""

import warnings
from collections.abc import Sequence

import numpy as np
from _arena import Arena

from evomerge.optimizers import Surrogate, Vector
from evomerge.searching.stages import Candidate
from evomerge.space.space import Space

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # cma warns at import where matplotlib is missing
    import cma

WIDE = 100.0  # a weight that no search comes near: the rival has no upper bound
GRID = tuple(round(0.1 * step, 1) for step in range(2, 11))


class FoldedCMA:
    """Plain CMA-ES over raw weights as mergekit-evolve codes them (PEERS.md 2a), written anew from that description.

    A weight is the absolute value of a coordinate, there are no bounds, the start is 1/n for each of n experts with a
    step of 1/6, cma's own population, no known recipe in any generation; the best point ever seen is the result.
    """

    def __init__(self, dimensions: int, experts: int, seed: int) -> None:
        stream = np.random.default_rng(seed)
        options = {"randn": lambda *size: stream.standard_normal(size), "verbose": -10}
        self._strategy = cma.CMAEvolutionStrategy(np.full(dimensions, 1.0 / experts), 1.0 / 6.0, options)
        self._asked: list[Vector] = []

    def ask(self, surrogate: Surrogate | None = None) -> list[Vector]:
        """A generation, folded and in units of the wide space."""
        self._asked = self._strategy.ask()
        return [np.minimum(np.abs(x) / WIDE, 1.0) for x in self._asked]

    def tell(self, vectors: Sequence[Vector], losses: Sequence[float]) -> None:
        """The raw points are told, as cma expects."""
        self._strategy.tell(self._asked, list(losses))

    def centre(self) -> None:
        """It is not looked at."""


def wide_space(arena: Arena) -> Space:
    """The experiment's schedule over task arithmetic with weights that are not bounded from above."""
    weight = f"+space.genes.weight={{low: 0.0, high: {WIDE}}}"
    space = arena.variant({}, "method=task_arithmetic", weight).space
    assert isinstance(space, Space)
    return space


def static(arena: Arena) -> dict[str, list[Candidate]]:
    """Recipes without a search, by what they are called; of several, `select` chooses."""
    experts = list(arena.experiment.experts)
    rows = {label: Candidate.of(label, recipe) for label, recipe in arena.experiment.baselines.items()}
    wide = wide_space(arena)
    grid = [wide.encode({"weight": weight}) for weight in GRID]
    return {
        "best expert": [rows[label] for label in experts],
        "uniform average": [rows["uniform"]],
        f"{arena.experiment.space.method}, textbook": [
            row for label, row in rows.items() if label.startswith("default")
        ],
        f"task arithmetic, best of {GRID[0]} to {GRID[-1]}": [
            Candidate.of("grid", wide.decode(point)) for point in grid if point is not None
        ],
        "ties, textbook": [_textbook(arena, "ties")],
        "dare_ties, textbook": [_textbook(arena, "dare_ties")],
    }


def _textbook(arena: Arena, method: str) -> Candidate:
    space = arena.variant({}, f"method={method}", "space.outer=joint", "space.genes={}").space
    return Candidate.of(method, space.decode(space.default_points()["default"]))
