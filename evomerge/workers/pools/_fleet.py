"""The interface between the crew, which decides what each worker does, and the machines on which workers run."""

from collections.abc import Sequence
from typing import Any, Protocol

from evomerge.workers import Job


class WorkerLostError(Exception):
    """A worker that died or cannot be reached; the message is the reason."""


class CallError(Exception):
    """A call that has raised on a worker that lives on; the message is the reason."""


class Fleet(Protocol):
    """Starts workers and passes calls to them; every call returns a reference at once.

    A worker is an object that only the fleet understands, and so is a reference.
    """

    def spawn(self) -> tuple[Any, Any]:
        """A new worker, and the reference to a description of its place (a text), once it has one."""

    def load(self, worker: Any) -> Any:
        """Load the model on a worker that has a place."""

    def attempt(self, worker: Any, job: Job) -> Any:
        """Run a job; the result is an `Outcome`."""

    def wait(self, refs: Sequence[Any], timeout: float) -> list[Any]:
        """The references that are finished, as soon as there is one or `timeout` seconds have passed."""

    def result(self, ref: Any) -> Any:
        """The result of a finished reference; WorkerLostError or CallError."""

    def kill(self, worker: Any) -> None:
        """End a worker, also one that does not answer, and free its place."""

    def room(self) -> float:
        """The number of workers that fit on all living nodes, those that run included; RunError if none answers."""

    def fair_share(self, workers: int) -> int:
        """How many of `workers` workers this search may have beside the other searches on the same nodes."""

    def is_shared(self) -> bool:
        """Whether other searches use the same nodes, so that a place may come late."""
