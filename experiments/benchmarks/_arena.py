"""Where optimizers meet: one live model, one memo of what was ever scored, and for each contestant the real search.

Every contestant pays for its own items, in its own ledger; that another one has asked for the same chunk of the same
recipe before saves seconds and nothing else.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from evomerge.experiment.experiment import Experiment, from_config
from evomerge.ledger.ledger import Ledger
from evomerge.optimizers import Optimizer
from evomerge.recipes.recipe import Recipe
from evomerge.scoring.protocol import Request, Scorer
from evomerge.searching.budget import BudgetConfig, RemainingBudget
from evomerge.searching.evaluator import Evaluator
from evomerge.searching.leaderboard import Leaderboard
from evomerge.searching.loop import search
from evomerge.searching.race import RaceConfig
from evomerge.searching.slope_evaluator import SlopeEvaluator, SlopeItems
from evomerge.searching.stages import Candidate
from evomerge.space.search_space import SearchSpace
from evomerge.workers.jobs import Job, Outcome
from evomerge.workers.pools import JobQueue, Pool

ROOT = Path(__file__).parents[2]
TOP = 5  # candidates that `select` chooses among, beside the optimizer's centre and the model's best


class Memo:
    """A pool that computes a chunk of a recipe once."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: dict[tuple[str, str], Outcome] = {}  # (recipe, chunk or slopes)
        self._holding: str | None = None

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        """Outcomes one by one, as from a single worker."""
        while job := jobs.next(self._holding):
            self._holding = job.key
            key = (job.key, repr(job.slope) if job.slope else job.chunk)
            if key not in self._known:
                (self._known[key],) = self._pool.run(JobQueue([job]))
            yield replace(self._known[key], job=job)

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """As the pool has it; the memo lasts where the same items are dealt the same way."""
        self._pool.extend(requests)

    def fingerprint(self, recipe: Recipe) -> str:
        """As the pool has it."""
        return self._pool.fingerprint(recipe)

    def close(self) -> None:
        """The pool is closed by whoever has made it."""


@dataclass(frozen=True)
class Moment:
    """A search at the end of a generation: the items it has paid for, and who would go to `select`."""

    items: int
    leader: Candidate
    finalists: tuple[Candidate, ...]


class _Recorder:
    """Listens to one search."""

    def __init__(self, evaluator: Evaluator, space: SearchSpace, optimizer: Optimizer, modelled: bool) -> None:
        self._evaluator, self._space, self._optimizer, self._modelled = evaluator, space, optimizer, modelled
        self._free = 0
        self.moments: list[Moment] = []

    def work(self, done: int, total: int) -> None:
        """Nothing between generations."""

    def descent(self, step: int, loss: float) -> None:
        """Nothing: a descent has no merge before its end."""

    def generation(self, number: int, board: Leaderboard, scores: Sequence[float]) -> None:
        """The state before this generation is told; the baselines are everybody's and cost nothing."""
        self._free = self._free if number else self._evaluator.scored_items
        self.end(board, self._evaluator.scored_items - self._free)

    def end(self, board: Leaderboard, items: int) -> None:
        """The state after so many items."""
        best = [candidate for candidate, _ in board.ranked()[:TOP]]
        believed = {"centre": self._optimizer.centre(), "model": board.surrogate.best() if self._modelled else None}
        more = [Candidate.of(name, self._space.decode(point)) for name, point in believed.items() if point is not None]
        self.moments.append(Moment(items, best[0], (*best, *more)))


class Arena:
    """An experiment of the repository, with its slices, its baselines and one worker."""

    def __init__(self, experiment: str, overrides: Sequence[str]) -> None:
        OmegaConf.register_new_resolver("home", lambda path: str(ROOT / path), replace=True)
        self._overrides = [f"+experiment={experiment}", "name=arena", *overrides]
        self.experiment = self.variant({})
        for _ in self.experiment.prepare():
            pass
        self._losing = self.variant({"name": "slope"})  # has losses of its items
        self._pool = self.experiment.pool(self._losing.worker_spec())
        self._memo = Memo(self._pool)
        scratch = Path(tempfile.mkdtemp(prefix="arena-"))
        self._scores = Evaluator(self.experiment.scorer, self._memo, Ledger(scratch / "trials.jsonl", {}))

    @property
    def items(self) -> int:
        """Of the search slice."""
        return len(self.experiment.scorer.plan.items("search"))

    def variant(self, optimizer: Mapping[str, Any], *overrides: str) -> Experiment:
        """The same experiment with another optimizer and other settings."""
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = OmegaConf.to_container(compose("config", [*self._overrides, *overrides]), resolve=True)
        assert isinstance(config, dict)
        plain = {str(key): value for key, value in config.items()}
        return from_config(plain | {"optimizer": dict(optimizer), "baselines": {}})  # rivals are rows of their own

    def play(
        self,
        optimizer: Optimizer,
        space: SearchSpace,
        items: int,
        race: RaceConfig,
        modelled: bool = True,
        slopes: bool = False,
        scorer: Scorer | None = None,
    ) -> list[Moment]:
        """One search of so many items, a moment for every generation; `modelled`: the model's best is a finalist.

        With `slopes` the optimizer descends first, and the last moment is that of the end of the search. `scorer`
        replaces the experiment's.
        """
        with tempfile.TemporaryDirectory(prefix="arena-") as folder:
            ledger = Ledger(Path(folder) / "trials.jsonl", {})
            evaluator = Evaluator(scorer or self.experiment.scorer, self._memo, ledger)
            recorder = _Recorder(evaluator, space, optimizer, modelled)
            budget = BudgetConfig(evaluations=items, items=items)
            remaining = RemainingBudget(budget, evaluator, ledger)
            answers = None
            if slopes:
                weighted = SlopeItems.of(tuple(self._losing.item_losses), evaluator.objective.weights)
                answers = SlopeEvaluator(weighted, space, self._memo, ledger)
            board = search(evaluator, space, optimizer, self.experiment.baselines, remaining, [recorder], race, answers)
            if slopes:
                recorder.end(board, round(remaining.spent))
            ledger.close()
        return recorder.moments

    def score(self, candidate: Candidate, slice_name: str) -> float:
        """A candidate's score on a slice, which no contestant pays for."""
        self._scores.evaluate([candidate], slice_name)
        return self._scores.score(candidate.key, slice_name)

    def responses(self, candidate: Candidate, chunk: str) -> list[Any]:
        """The raw responses of a candidate to a chunk, which no contestant pays for."""
        (outcome,) = self._memo.run(JobQueue([Job(candidate.key, candidate.recipe, chunk)]))
        if outcome.responses is None:
            raise RuntimeError(f"{candidate.label}: {outcome.error}")
        return outcome.responses

    def chosen(self, finalists: Sequence[Candidate]) -> Candidate:
        """The best of them on `select`; equal scores go to the earlier."""
        return max(finalists, key=lambda candidate: self.score(candidate, "select"))
