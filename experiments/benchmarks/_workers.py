"""Simulated workers in virtual time, and a search over the simulated merges of `_landscape` that uses them.

A chunk takes the same time on a worker, up to 10 % of noise. While the driver works, the worker whose outcome it has
waits: the driver's measured CPU time is added to the clock, for one outcome after the other.
"""

import heapq
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _landscape import DIMENSIONS, TASKS, Items, named, plan, starts, truth
from numpy.typing import NDArray

from evomerge import optimizers
from evomerge.ledger.ledger import Ledger
from evomerge.models.groups import Layout
from evomerge.optimizers import Surrogate, Vector
from evomerge.recipes.recipe import ModelRef, Recipe
from evomerge.scoring.protocol import Chunk, Request
from evomerge.searching.budget import BudgetConfig, RemainingBudget
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.leaderboard import Leaderboard
from evomerge.searching.loop import ledger_header, search
from evomerge.searching.race import RaceConfig
from evomerge.space.baselines import mandatory_baselines
from evomerge.space.space import Space
from evomerge.workers.jobs import Job, Outcome
from evomerge.workers.pools import JobQueue

CHUNK, SECONDS, JITTER, LOADING = 16, 1.0, 0.1, 0.1  # items of a chunk, its seconds, their noise, of another candidate
SELECT, TOP = 80, 5  # items of each task that choose among the finalists, and finalists
BASE, EXPERTS = ModelRef("base"), {f"e{place}": ModelRef(f"e{place}") for place in range(TASKS)}
SPEEDS = ("equal", "1:4", "log-normal")


def speeds(kind: str, workers: int, seed: int) -> NDArray[np.float64]:
    """Seconds of a chunk on each worker: equal, half of them four times as slow, or log-normal with sigma 0.5."""
    draw = np.random.default_rng(seed)
    factors = {"equal": np.ones(workers), "1:4": np.where(np.arange(workers) % 2, 4.0, 1.0)}
    found: NDArray[np.float64] = SECONDS * factors.get(kind, np.exp(0.5 * draw.standard_normal(workers)))
    return found


class Scorer:
    """The landscape's items as a scorer; a response is a score."""

    def __init__(self, count: int) -> None:
        self.plan, self.fingerprint = plan(count, CHUNK), "landscape"
        self.functions: Mapping[str, str] = {}

    def requests(self, chunk: Chunk) -> tuple[Request, ...]:
        """Nothing is read."""
        return ()

    def grade(self, chunk: Chunk, responses: Sequence[Any]) -> dict[str, float]:
        """The responses are the scores."""
        return dict(zip(chunk.items, responses, strict=True))

    def answers(self, chunk: Chunk, responses: Sequence[Any]) -> dict[str, int]:
        """Nothing is generated."""
        return {}

    def lengths(self, chunk: Chunk, responses: Sequence[Any]) -> dict[str, float]:
        """Nothing is generated."""
        return {}


class Merges(Space):
    """Four experts with a weight in each of two blocks of layers; remembers the point of each recipe."""

    def __init__(self, layers: int = 2) -> None:
        names = tuple(f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(layers))
        super().__init__(
            method="task_arithmetic",
            base=BASE,
            experts=EXPERTS,
            layout=Layout(names),
            touched=[frozenset(names)] * TASKS,
            schedule="each",
            out_dtype="float32",
        )
        self.points: dict[str, Vector] = {}

    def decode(self, vector: Vector, participation: Mapping[str, float] | None = None) -> Recipe:
        """The recipe of a point."""
        recipe = super().decode(vector, participation)
        self.points[recipe.key()] = vector
        return recipe


@dataclass(frozen=True)
class Moment:
    """A search after a generation: the clock, the items that it has used, and its finalists.

    One more finalist, the best point of the surrogate model, is computed from its first `modelled` losses.
    """

    seconds: float
    items: float
    finalists: tuple[Vector, ...]
    modelled: int


class SimulatedPool:
    """Workers in virtual time. `busy` counts the seconds of their jobs, `driver` the CPU seconds of the driver."""

    def __init__(self, seconds: NDArray[np.float64], items: Items, space: Merges, scorer: Scorer, seed: int) -> None:
        self._seconds, self._items, self._space = seconds, items, space
        self._draw = np.random.default_rng(seed)
        self._chunks = {chunk.id: chunk for chunk in scorer.plan.chunks["search"]}
        self._scores: dict[str, Mapping[str, float]] = {}
        self._loaded: list[str | None] = [None] * len(seconds)
        self.now = self.busy = self.driver = 0.0
        self.paid = 0
        self._mark = time.process_time()  # the driver's work up to here is on the clock

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        """The outcomes in the order in which the workers end."""
        idle, events = list(range(len(self._seconds))), list[tuple[float, int, Job, float]]()
        while True:
            while idle and (job := jobs.next(self._loaded[idle[0]])) is not None:
                worker = idle.pop(0)
                seconds = float(self._seconds[worker] * np.exp(JITTER * self._draw.standard_normal()))
                seconds += LOADING * SECONDS * (self._loaded[worker] != job.key)
                self._loaded[worker] = job.key
                heapq.heappush(events, (self.now + seconds, worker, job, seconds))
            spent = time.process_time() - self._mark
            self.driver, self.now, self._mark = self.driver + spent, self.now + spent, self._mark + spent
            if not events:
                return
            end, worker, job, seconds = heapq.heappop(events)
            self.now, self.busy = max(self.now, end), self.busy + seconds
            idle.insert(0, worker)
            outcome = Outcome(job, self._responses(job), seconds=seconds)
            self._mark = time.process_time()  # the responses are no work of the driver
            yield outcome

    def _responses(self, job: Job) -> list[float]:
        if job.key not in self._scores:
            self._scores[job.key] = named(self._items.right(self._space.points[job.key]))
        scores, chunk = self._scores[job.key], self._chunks[job.chunk]
        self.paid += len(chunk.items)
        return [scores[item] for item in chunk.items]

    def pass_over(self, seconds: float) -> None:
        """Leave out CPU time that is no work of the driver."""
        self._mark += seconds

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """The search slice in other chunks is not simulated."""

    def close(self) -> None:
        """Nothing is held."""


class Simulation:
    """One search with the real loop, race, optimizer and ledger; `moments` are its states after each generation."""

    def __init__(self, seed: int, kind: str, workers: int, items: int, optimizer: Mapping[str, Any], mode: str) -> None:
        self._seed, self._mode, self._scorer, self.space = seed, mode, Scorer(items), Merges()
        self.pool = SimulatedPool(speeds(kind, workers, seed), Items(2 * seed, items), self.space, self._scorer, seed)
        self._select, self._workers = Items(2 * seed + 1, SELECT), workers
        coordinates, asynchronous = self.space.coordinates(), mode == "asynchronous"
        self.optimizer = optimizers.create(
            "cma", coordinates, starts(), seed, dict(optimizer), asynchronous=asynchronous
        )
        self.moments: list[Moment] = []
        self._begun = self._busy = self._driver = 0.0  # when the baselines were scored
        self._paid = 0

    def work(self, done: int, total: int) -> None:
        """Nothing within a generation."""

    def descent(self, step: int, loss: float) -> None:
        """There is no descent."""

    def generation(self, number: int, board: Leaderboard, scores: Sequence[float]) -> None:
        """Note the state; the baselines are free."""
        if number == 0:
            self._begun, self._busy = self.pool.now, self.pool.busy
            self._paid, self._driver = self.pool.paid, self.pool.driver
            return
        before = time.process_time()
        points = [self.space.points[candidate.key] for candidate, _ in board.ranked()[:TOP]]
        points += [point for point in [self.optimizer.centre()] if point is not None]
        modelled = len(board.surrogate._points)
        self.moments.append(Moment(self.pool.now - self._begun, self._remaining.spent, tuple(points), modelled))
        self.pool.pass_over(time.process_time() - before)

    def shipped(self, moment: Moment) -> float:
        """The true score of the best finalist on other items, as finalise chooses it."""
        model, known = Surrogate(), self._board.surrogate
        model.tell(known._points[: moment.modelled], known._losses[: moment.modelled])
        best = model.best()
        points = [*moment.finalists, *([] if best is None else [best])]
        return truth(max(points, key=lambda point: self._select.right(point).mean()))

    def run(self, evaluations: int | None, items: int | None, race: RaceConfig) -> dict[str, float]:
        """Search, and say how busy the workers were, the baselines left out."""
        with tempfile.TemporaryDirectory(prefix="workers-") as folder:
            ledger = Ledger(Path(folder) / "trials.jsonl", ledger_header(self._scorer, {}))
            evaluator = Evaluator(self._scorer, self.pool, ledger)  # type: ignore[arg-type]
            self._remaining = RemainingBudget(BudgetConfig(evaluations=evaluations, items=items), evaluator, ledger)
            rows = mandatory_baselines(self.space, BASE, EXPERTS)
            for recipe in rows.values():
                self.space.points.setdefault(recipe.key(), np.zeros(DIMENSIONS))
            board = self._board = search(
                evaluator, self.space, self.optimizer, rows, self._remaining, [self], race, mode=self._mode
            )
            ledger.close()
        seconds, candidates = self.pool.now - self._begun, len(board.candidates)
        return {
            "busy": (self.pool.busy - self._busy) / (seconds * self._workers),
            "used": self._remaining.spent / (self.pool.paid - self._paid),
            "seconds": seconds,
            "candidates": candidates,
            "driver": (self.pool.driver - self._driver) / candidates,
        }
