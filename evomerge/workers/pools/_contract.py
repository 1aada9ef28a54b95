"""What a search asks of the place where its workers run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from evomerge.recipes import Recipe
from evomerge.scoring import Request
from evomerge.workers import Outcome
from evomerge.workers.pools._dispatch import JobQueue


class Pool(Protocol):
    """What `create` in each file of this folder returns."""

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        """Outcomes as they come, in any order, until nothing waits and no worker is at work.

        A worker that is free takes `jobs.next(what it holds)`. The caller may change what waits between two outcomes.
        """

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """Let every worker, present and later ones, know these chunks, too; not while `run` has jobs out."""

    def fingerprint(self, recipe: Recipe) -> str:
        """The fingerprint of a candidate as a worker would score it."""

    def close(self) -> None:
        """Free what the workers hold."""
