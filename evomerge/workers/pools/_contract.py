"""The interface of worker pools."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from evomerge.recipes import Recipe
from evomerge.scoring import Request
from evomerge.workers import Outcome
from evomerge.workers.pools._dispatch import JobQueue

if TYPE_CHECKING:
    from evomerge.routing import RouterWork

Routers = Mapping[str, NDArray[np.float32]]


class Pool(Protocol):
    """The type that `create` in each file of this folder returns."""

    @property
    def workers(self) -> int:
        """The number of workers that there are now; 0 before they are started."""

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        """Outcomes in order of completion, until the queue is empty and no worker is running a job.

        A free worker takes `jobs.next(key of the candidate that its model has)`. The caller may change the queue
        between two outcomes.
        """

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """Add chunks (id → requests) to all current and future workers; not to be called while `run` is running."""

    def fingerprint(self, recipe: Recipe) -> str:
        """The fingerprint of a candidate's weights as a worker scores them."""

    def calibrate(self, recipe: Recipe, work: "RouterWork") -> Routers:
        """Router name → its weight, fitted to these texts by a worker in the merged model."""

    def close(self) -> None:
        """Release the workers and their memory."""
