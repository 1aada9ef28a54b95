"""Mirror of a search in an Optuna journal, for optuna-dashboard: the trials of any optimizer, named by genes.

The mirror is written, never read back: the ledger alone decides how a search resumes. A resumed search replays its
trials into the same study, where trials that exist already are skipped. A journal that cannot be read, as after a torn
line, is set aside and written anew from the replayed trials.
"""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from evomerge.optimizers import (
    AsynchronousOptimizer,
    Coordinate,
    Descent,
    Optimizer,
    SlopeOptimizer,
    Surrogate,
    Terms,
    Vector,
)
from evomerge.optimizers._distributions import Parameters

log = logging.getLogger(__name__)


class MirroredOptimizer:
    """An optimizer whose trials are also written to a journal; if writing fails, the search continues without it."""

    def __init__(self, optimizer: Optimizer, coordinates: Sequence[Coordinate], path: Path) -> None:
        self._optimizer, self._parameters, self._path = optimizer, Parameters(coordinates), path
        self._study: optuna.Study | None = None
        self._existing: list[FrozenTrial] = []  # trials in the study before this command
        self._count, self._broken = 0, False
        self._proposed, self._outstanding = 0, dict[int, Vector]()

    def descent(self, terms: Terms) -> Descent:
        """The requests of the wrapped optimizer's descent, which the mirror does not contain."""
        return cast(SlopeOptimizer, self._optimizer).descent(terms)

    def ask(self, surrogate: Surrogate | None = None) -> list[Vector]:
        """The generation of the wrapped optimizer."""
        return self._optimizer.ask(surrogate)

    def tell(self, vectors: Sequence[Vector], losses: Sequence[Any]) -> None:
        """Update the wrapped optimizer, then write the scores, which are the negative losses."""
        self._optimizer.tell(vectors, losses)
        self._mirror(vectors, losses)

    @property
    def population(self) -> int:
        """The population of the wrapped optimizer."""
        return cast(AsynchronousOptimizer, self._optimizer).population

    def propose(self, surrogate: Surrogate | None = None) -> Vector | None:
        """The next point of the wrapped optimizer."""
        point = cast(AsynchronousOptimizer, self._optimizer).propose(surrogate)
        if point is not None:
            self._proposed += 1
            self._outstanding[self._proposed] = point
        return point

    def learn(self, number: int, loss: Any) -> None:
        """Update the wrapped optimizer, then write the score of the point with this number."""
        cast(AsynchronousOptimizer, self._optimizer).learn(number, loss)
        self._mirror([self._outstanding.pop(number)], [loss])

    def _mirror(self, vectors: Sequence[Vector], losses: Sequence[Any]) -> None:
        if self._broken:
            return
        try:
            for vector, loss in zip(vectors, losses, strict=True):
                self._add(vector, loss if isinstance(loss, tuple) else (loss,))
        except Exception as error:  # no failure of Optuna or the disk may end the search
            self._broken = True
            log.warning("optimizer.mirror: %s: no longer written (%s)", self._path, " ".join(str(error).split()))

    def centre(self) -> Vector | None:
        """The estimate of the wrapped optimizer."""
        return self._optimizer.centre()

    def _add(self, vector: Vector, losses: Sequence[float]) -> None:
        if self._study is None:
            self._set_damaged_aside()
            self._study = self._open(len(losses))
            self._existing = self._study.get_trials(deepcopy=False)
        failed = not all(map(math.isfinite, losses))
        trial = create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            params=self._parameters.of(vector),
            distributions=self._parameters.distributions,
            values=None if failed else [-loss for loss in losses],
        )
        if self._count >= len(self._existing):
            self._study.add_trial(trial)
        elif (self._existing[self._count].params, self._existing[self._count].values) != (trial.params, trial.values):
            raise ValueError("it holds the trials of another search; give another path")
        self._count += 1

    def _set_damaged_aside(self) -> None:
        """Rename a journal with a line that is cut or no JSON, which Optuna could not read again after the next one."""
        if not self._path.exists() or all(map(_is_whole, self._path.read_bytes().splitlines(keepends=True))):
            return
        aside = self._path.with_name(f"{self._path.name}.damaged")
        self._path.replace(aside)
        log.warning("optimizer.mirror: %s: damaged, kept as %s, and written anew", self._path, aside.name)

    def _open(self, objectives: int) -> optuna.Study:
        """The study for these coordinates, created if the journal does not contain it."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        names = "\n".join(self._parameters.distributions)
        return optuna.create_study(
            study_name=f"evomerge-{hashlib.blake2b(names.encode(), digest_size=4).hexdigest()}",
            storage=JournalStorage(JournalFileBackend(str(self._path))),
            directions=["maximize"] * objectives,
            load_if_exists=True,
        )


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
