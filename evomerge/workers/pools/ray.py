"""Workers as Ray actors, on this machine or a cluster, each with its share of CPUs and GPUs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from evomerge.errors import ConfigError, RunError
from evomerge.recipes import Recipe
from evomerge.schema import Range, Text
from evomerge.scoring import Request
from evomerge.workers import Outcome, WorkerSpec
from evomerge.workers.pools._contract import Routers
from evomerge.workers.pools._crew import Crew
from evomerge.workers.pools._dispatch import JobQueue
from evomerge.workers.pools._interpreter import executable, refuse_interpreter
from evomerge.workers.pools._member import State
from evomerge.workers.pools._pace import Pace
from evomerge.workers.pools._ray_connection import cluster_address, connect
from evomerge.workers.pools._ray_fleet import RayFleet
from evomerge.workers.pools._resources import Claim
from evomerge.workers.pools._shift import Shift

if TYPE_CHECKING:
    from evomerge.routing import RouterWork

FINGERPRINT, CALIBRATE = "fingerprint", "calibrate"  # the names of these calls, among the chunks of the pace
Share = Annotated[float, Range(0, 4096)]  # of a machine's cores or GPUs
Seconds = Annotated[float, Range(1, 10**7)]


class RayPool:
    """Runs jobs on actors; an actor that is lost, sick or silent is replaced and its job is repeated."""

    def __init__(
        self,
        spec: WorkerSpec,
        workers: int,
        claim: Claim,
        *,
        threads: int,
        min_workers: int | None = None,
        address: str | None = None,
        timeout: float | None = None,
        python: str | None = None,
    ) -> None:
        self._ray, self._started_here = connect(address)
        self._crew: Crew | None = None
        try:
            self._fleet = RayFleet(self._ray, spec, claim, threads, executable(python) if python else None)
            claim.refuse_missing(self._fleet.nodes(), workers if min_workers is None else min(min_workers, workers))
            self._crew = Crew(self._fleet, workers, Pace(timeout))
            self._crew.start()
        except BaseException:
            self.close()
            raise

    @property
    def crew(self) -> Crew:
        """The workers."""
        assert self._crew is not None
        return self._crew

    @property
    def workers(self) -> int:
        """The actors that have started."""
        return sum(member.state is not State.PLACING for member in self.crew.members)

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        """Outcomes in order of completion; see `Pool.run`."""
        return Shift(self.crew, jobs).run()

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """Add chunks to every actor; an actor that is started later gets them at its start."""
        placed = [member.worker for member in self.crew.members if member.state is not State.PLACING]
        self._fleet.extend(placed, requests)

    def fingerprint(self, recipe: Recipe) -> str:
        """The fingerprint of a candidate's weights as a worker scores them; RunError if it cannot be built."""
        try:
            member, found = self.crew.ask(FINGERPRINT, lambda worker: self._fleet.fingerprint(worker, recipe))
        except RunError as error:
            raise RunError(f"the winner cannot be built: {error}") from None
        member.loaded_key = recipe.key()
        return str(found)

    def calibrate(self, recipe: Recipe, work: "RouterWork") -> Routers:
        """See `Worker.calibrate`; RunError if the routers cannot be fitted."""
        member, found = self.crew.ask(CALIBRATE, lambda worker: self._fleet.calibrate(worker, recipe, work))
        member.loaded_key = recipe.key()
        routers: Routers = found
        return routers

    def close(self) -> None:
        """Stop the actors, and Ray itself if this pool has started it."""
        if self._crew is not None:
            self._crew.close()
            self._fleet.leave()
        if self._started_here:
            self._ray.shutdown()


def check(
    *,
    workers: int = 2,
    num_cpus: float = 1,
    num_gpus: float = 0,
    threads: int | None = None,
    min_workers: int | None = None,
    address: str | None = None,
    timeout: float | None = None,
    python: str | None = None,
) -> None:
    """ConfigError for an impossible share of GPUs, an interpreter that workers cannot use or, without a cluster, for
    more resources than this machine has.
    """
    if python:
        refuse_interpreter(python)
    if num_gpus > 1 and num_gpus != int(num_gpus):
        raise ConfigError(f"pool.num_gpus={num_gpus}: give whole GPUs above 1")
    if cluster_address(address)[0] is None:
        needed = workers if min_workers is None else min(min_workers, workers)
        machine = {"CPU": float(os.cpu_count() or 1), "GPU": _gpus(num_gpus)}
        Claim(num_cpus, num_gpus).refuse_missing([machine], needed)


def _gpus(wanted: float) -> float:
    """The GPUs of this machine; torch is loaded for the answer only where a worker wants one."""
    if not wanted:
        return 0.0
    import torch

    return float(torch.cuda.device_count())


def create(
    spec: WorkerSpec,
    *,
    workers: Annotated[int, Range(1, 100_000)] = 2,
    num_cpus: Share = 1,
    num_gpus: Share = 0,
    threads: Annotated[int, Range(1, 1024)] | None = None,
    min_workers: Annotated[int, Range(1, 100_000)] | None = None,
    address: Annotated[str, Text(r"[\w.:/\[\]-]{1,255}", "auto, local, host:port or ray://host:port")] | None = None,
    timeout: Seconds | None = None,
    python: Annotated[str, Text(r"\S(.{0,998}\S)?", "the path of a Python interpreter")] | None = None,
) -> RayPool:
    """`workers` actors with `num_cpus` and `num_gpus` each; fractions share a GPU, `address: auto` joins a cluster.

    `threads` of each actor is by default the number of its whole CPUs. The search starts when `min_workers` fit on the
    nodes, by default all; others join when there is room. An actor that has not answered a job within `timeout` seconds
    is replaced; by default the limit is learnt from the time that the same chunk has taken before. `python` is the
    interpreter of the workers, for an environment of their own; on a cluster every node needs it at that path.
    """
    return RayPool(
        spec,
        workers,
        Claim(num_cpus, num_gpus),
        threads=threads or max(1, int(num_cpus)),
        min_workers=min_workers,
        address=address,
        timeout=timeout,
        python=python,
    )
