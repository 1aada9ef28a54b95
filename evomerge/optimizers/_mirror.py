"""Trials in an Optuna journal, for optuna-dashboard: what any optimizer is told, under the names of the genes.

The ledger stays the truth: a resumed search replays into the same study, where what is there already is skipped.
"""

import hashlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from evomerge.optimizers import Coordinate, Optimizer, Vector
from evomerge.optimizers._distributions import Parameters

log = logging.getLogger(__name__)


class Mirrored:
    """An optimizer whose trials are written down; where they cannot be, the search goes on without."""

    def __init__(self, optimizer: Optimizer, coordinates: Sequence[Coordinate], path: Path) -> None:
        self._optimizer, self._parameters, self._path = optimizer, Parameters(coordinates), path
        self._study: optuna.Study | None = None
        self._there: list[FrozenTrial] = []  # in the study before this search began or was resumed
        self._told, self._broken = 0, False

    def ask(self) -> list[Vector]:
        """The optimizer's generation."""
        return self._optimizer.ask()

    def tell(self, vectors: Sequence[Vector], losses: Sequence[Any]) -> None:
        """Learn, then write down scores, which are the negative losses."""
        self._optimizer.tell(vectors, losses)
        if self._broken:
            return
        try:
            for vector, loss in zip(vectors, losses, strict=True):
                self._add(vector, loss if isinstance(loss, tuple) else (loss,))
        except Exception as error:  # whatever Optuna or the disk says, a mirror is no reason to end
            self._broken = True
            log.warning("optimizer.mirror: %s: no longer written (%s)", self._path, " ".join(str(error).split()))

    def centre(self) -> Vector | None:
        """The optimizer's."""
        return self._optimizer.centre()

    def _add(self, vector: Vector, losses: Sequence[float]) -> None:
        if self._study is None:
            self._study = self._open(len(losses))
            self._there = self._study.get_trials(deepcopy=False)
        failed = not all(map(math.isfinite, losses))
        trial = create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            params=self._parameters.of(vector),
            distributions=self._parameters.distributions,
            values=None if failed else [-loss for loss in losses],
        )
        if self._told >= len(self._there):
            self._study.add_trial(trial)
        elif (self._there[self._told].params, self._there[self._told].values) != (trial.params, trial.values):
            raise ValueError("it holds the trials of another search; give another path")
        self._told += 1

    def _open(self, objectives: int) -> optuna.Study:
        """The study of a search over these coordinates, made where it is not there."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        names = "\n".join(self._parameters.distributions)
        return optuna.create_study(
            study_name=f"evomerge-{hashlib.blake2b(names.encode(), digest_size=4).hexdigest()}",
            storage=JournalStorage(JournalFileBackend(str(self._path))),
            directions=["maximize"] * objectives,
            load_if_exists=True,
        )
