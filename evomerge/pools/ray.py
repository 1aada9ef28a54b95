"""Workers as Ray actors, on this machine or a cluster, each with its share of CPUs and GPUs."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from evomerge.errors import ConfigError, RunError
from evomerge.jobs import Job, Outcome, WorkerSpec
from evomerge.pools._dispatch import Dispatch
from evomerge.recipe import Recipe
from evomerge.worker import Worker

RETRIES = 2  # a job whose worker dies this often more is the candidate's failure


class RayPool:
    """Keeps `workers` actors busy; a lost actor is replaced and its job given to another."""

    def __init__(self, spec: WorkerSpec, workers: int, num_cpus: float, num_gpus: float, address: str | None) -> None:
        self._ray = _connect(address)
        self._started_here = address is None
        _refuse_missing(self._ray.cluster_resources(), workers, num_cpus, num_gpus)
        threads = str(max(1, int(num_cpus)))
        options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": 0}
        self._actor = self._ray.remote(**options, runtime_env={"env_vars": {"OMP_NUM_THREADS": threads}})(Worker)
        self._spec = self._ray.put(spec)
        self._idle: list[tuple[Any, str | None]] = [(self._spawn(), None) for _ in range(workers)]
        self._wait_until_ready()

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Outcomes as they come; see `Pool.run`."""
        dispatch = Dispatch(jobs)
        busy: dict[Any, tuple[Any, Job]] = {}
        lost: dict[tuple[str, str], int] = {}
        failed: set[str] = set()
        while True:
            self._assign(dispatch, busy)
            if not busy:
                return
            (ref,), _ = self._ray.wait(list(busy), num_returns=1)
            worker, job = busy.pop(ref)
            outcome = self._outcome(ref, worker, job, lost, dispatch)
            if outcome is None or job.key in failed:
                continue
            if outcome.error is not None:
                failed.add(job.key)
                dispatch.drop(job.key)
            yield outcome

    def fingerprint(self, recipe: Recipe) -> str:
        """The fingerprint of a candidate as the first worker would score it."""
        return str(self._ray.get(self._idle[0][0].fingerprint.remote(recipe)))

    def close(self) -> None:
        """Stop the actors, and Ray itself where this pool has started it."""
        for worker, _ in self._idle:
            self._ray.kill(worker)
        if self._started_here:
            self._ray.shutdown()

    def _assign(self, dispatch: Dispatch, busy: dict[Any, Any]) -> None:
        still: list[tuple[Any, str | None]] = []
        for worker, holding in self._idle:
            job = dispatch.next(holding)
            if job is None:
                still.append((worker, holding))
            else:
                busy[worker.attempt.remote(job)] = (worker, job)
        self._idle = still

    def _outcome(
        self, ref: Any, worker: Any, job: Job, lost: dict[tuple[str, str], int], dispatch: Dispatch
    ) -> Outcome | None:
        """The job's outcome, or None where its worker died and the job waits again."""
        try:
            outcome: Outcome = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append((worker, None))
            return Outcome(job, error=f"{type(error.cause).__name__}: {error.cause}")
        except self._ray.exceptions.RayError as error:
            self._idle.append((self._spawn(), None))
            count = lost[job.key, job.chunk] = lost.get((job.key, job.chunk), 0) + 1
            if count <= RETRIES:
                dispatch.requeue(job)
                return None
            return Outcome(job, error=f"its worker died {count} times ({type(error).__name__})")
        self._idle.append((worker, job.key))
        return outcome

    def _spawn(self) -> Any:
        return self._actor.remote(self._spec)

    def _wait_until_ready(self) -> None:
        """A constructor that raises shows here, once, instead of as dead workers for ever."""
        try:
            self._ray.get([worker.__ray_ready__.remote() for worker, _ in self._idle])
        except self._ray.exceptions.RayError as error:
            self.close()
            reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
            raise RunError(f"pool=ray: a worker could not start ({reason})") from None


def check(*, workers: int = 2, num_cpus: float = 1, num_gpus: float = 0, address: str | None = None) -> None:
    """ConfigError for counts that cannot be meant or, without a cluster, more than this machine has."""
    if workers < 1 or num_cpus < 0 or num_gpus < 0:
        given = f"workers={workers}, num_cpus={num_cpus}, num_gpus={num_gpus}"
        raise ConfigError(f"pool: {given}: give at least one worker, and no negative share")
    if address is None:
        here = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
        _refuse_missing(here, workers, num_cpus, num_gpus)


def create(
    spec: WorkerSpec,
    *,
    workers: int = 2,
    num_cpus: float = 1,
    num_gpus: float = 0,
    address: str | None = None,
) -> RayPool:
    """`workers` actors with `num_cpus` and `num_gpus` each (fractions share a GPU); `address: auto` joins a cluster."""
    return RayPool(spec, workers, num_cpus, num_gpus, address)


def _connect(address: str | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # an actor without GPUs must not see any change
    try:
        import ray
    except ImportError:
        raise ConfigError("pool=ray: ray is not installed; pip install ray, or use pool=local") from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        quiet["include_dashboard"] = False
    try:
        if not ray.is_initialized():
            ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise RunError(
            f"pool.address={address}: no Ray cluster there ({error}); start it with `ray start --head`"
        ) from None
    return ray


def _refuse_missing(found: dict[str, float], workers: int, num_cpus: float, num_gpus: float) -> None:
    """Ray would wait for ever for a resource that no node has."""
    for kind, each in (("CPU", num_cpus), ("GPU", num_gpus)):
        if workers * each > found.get(kind, 0.0):
            have = f"{found.get(kind, 0.0):g}"
            raise ConfigError(
                f"pool: {workers} workers × {each:g} {kind} = {workers * each:g}, but there are {have}; "
                f"lower pool.workers or pool.num_{kind.lower()}s"
            )
