"""A scorer, a pool and a space small enough to see through: the seams of the loop without models or tasks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import CandidateError
from evomerge.ledger.ledger import Ledger
from evomerge.models.groups import Layout
from evomerge.optimizers import Coordinate, Optimizer, create, names
from evomerge.recipes.recipe import ModelRef, Recipe
from evomerge.routing import RouterWork
from evomerge.scoring.protocol import SLICES, Chunk, Plan, Request
from evomerge.searching.budget import BudgetConfig, RemainingBudget
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.leaderboard import Leaderboard
from evomerge.searching.loop import ledger_header, search
from evomerge.space.baselines import mandatory_baselines
from evomerge.space.space import Space
from evomerge.workers.jobs import Job, Outcome
from evomerge.workers.pools import JobQueue

BASE = ModelRef("base")
EXPERTS = {"left": ModelRef("left"), "right": ModelRef("right")}
NAMES = tuple(f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(2))
ASKING = tuple(name for name in names() if name != "slope")  # optimizers that propose candidates: slope has a descent
BEST = (0.8, 0.3)  # the weights that ToyPool likes most


def toy_space() -> Space:
    return Space(
        method="task_arithmetic",
        base=BASE,
        experts=EXPERTS,
        layout=Layout(NAMES),
        touched=[frozenset(NAMES), frozenset(NAMES)],
        out_dtype="float32",
    )


def cube(dimensions: int) -> tuple[Coordinate, ...]:
    """The axes of a cube without categories."""
    return tuple(Coordinate(f"x{place}") for place in range(dimensions))


def toy_optimizer(name: str = "cma", seed: int = 1, population: int = 6) -> Optimizer:
    return create(name, cube(2), list(toy_space().seed_points().values()), seed, {"population": population})


def toy_baselines() -> dict[str, Recipe]:
    return mandatory_baselines(toy_space(), BASE, EXPERTS)


def weights(recipe: Recipe) -> tuple[Any, ...]:
    return tuple(source.settings["weight"] for source in recipe.slices[0].sources)


class ToyScorer:
    """Two chunks of three items a slice; a response is the item's score, and grading refuses a `None`."""

    def __init__(self) -> None:
        chunks = {
            name: tuple(
                Chunk(f"{name}/{i}", name, tuple(f"toy/{name}/{3 * i + j}" for j in range(3))) for i in range(2)
            )
            for name in SLICES
        }
        self.plan = Plan(chunks, {"toy": 1.0})
        self.fingerprint = "toy"

    @property
    def functions(self) -> dict[str, str]:
        return {}

    def requests(self, chunk: Chunk) -> tuple[Request, ...]:
        return tuple(Request("toy", (item,)) for item in chunk.items)

    def grade(self, chunk: Chunk, responses: Sequence[Any]) -> dict[str, float]:
        if None in responses:
            raise CandidateError("an answer is missing")
        return dict(zip(chunk.items, responses, strict=True))

    def answers(self, chunk: Chunk, responses: Sequence[Any]) -> dict[str, int]:
        return {}

    def lengths(self, chunk: Chunk, responses: Sequence[Any]) -> dict[str, float]:
        return {}


class ToyPool:
    """Scores a recipe by its distance from BEST, remembers every job, and fails where `fails` gives a reason.

    `answers` replaces the responses of a job where it gives any.
    """

    def __init__(
        self,
        fails: Callable[[Job], str | None] = lambda job: None,
        answers: Callable[[Job], list[Any] | None] = lambda job: None,
    ) -> None:
        self.jobs: list[Job] = []
        self.known: set[str] = set()  # chunks that it was told of later
        self._fails, self._answers = fails, answers

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        while job := jobs.next(None):
            yield self.outcome(job)

    def outcome(self, job: Job) -> Outcome:
        self.jobs.append(job)
        error = self._fails(job)
        return Outcome(job, error=error) if error else Outcome(job, self._score(job), seconds=0.01)

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        self.known |= requests.keys()

    def fingerprint(self, recipe: Recipe) -> str:
        return recipe.key()

    def calibrate(self, recipe: Recipe, work: RouterWork) -> Mapping[str, NDArray[np.float32]]:
        raise NotImplementedError("toy recipes have no routers")

    def close(self) -> None:
        pass

    def paid(self) -> list[tuple[str, str]]:
        return [(job.key, job.chunk) for job in self.jobs]

    def _score(self, job: Job) -> list[Any]:
        distance = sum((float(w) - best) ** 2 for w, best in zip(weights(job.recipe), BEST, strict=True))
        return self._answers(job) or [1.0 - distance + 0.01 * item for item in range(3)]


class Run:
    """One toy search over a ledger file: what was asked in which order, and what it cost."""

    def __init__(self, path: Path, pool: ToyPool | None = None) -> None:
        self.pool = pool or ToyPool()
        known = ledger_header(ToyScorer(), {"seed": 1, "scorer": {"tasks": ["toy"]}})
        self.ledger = Ledger(path, {**known, "models": {"base": "0"}, "versions": {"toy": "1"}})
        self.evaluator = Evaluator(ToyScorer(), self.pool, self.ledger)
        self.asked: list[str] = []
        self.scores: list[list[float]] = []

    def work(self, done: int, total: int) -> None:
        assert 0 < done <= total

    def generation(self, number: int, board: Leaderboard, scores: Sequence[float]) -> None:
        assert number == len(self.scores)
        self.scores.append(list(scores))

    def search(self, evaluations: int, optimizer: Optimizer | None = None, close: bool = True) -> Leaderboard:
        recorded = _Recorded(toy_space(), self.asked)
        try:
            remaining = RemainingBudget(BudgetConfig(evaluations=evaluations), self.evaluator, self.ledger)
            return search(self.evaluator, recorded, optimizer or toy_optimizer(), toy_baselines(), remaining, [self])
        finally:
            if close:
                self.ledger.close()


class _Recorded(Space):
    """The toy space, noting the key of every recipe that it decodes."""

    def __init__(self, space: Space, asked: list[str]) -> None:
        self.__dict__.update(space.__dict__)
        self._asked = asked

    def decode(self, vector: Any) -> Recipe:
        recipe = super().decode(vector)
        self._asked.append(recipe.key())
        return recipe
