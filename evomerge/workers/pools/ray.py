"""Workers as Ray actors, on this machine or a cluster, each with its share of CPUs and GPUs."""

import logging
import math
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from evomerge.errors import ConfigError, RunError
from evomerge.recipes import Recipe
from evomerge.schema import Range, Text
from evomerge.scoring import Request
from evomerge.workers import Job, Outcome, WorkerSpec
from evomerge.workers.pools._dispatch import JobQueue

log = logging.getLogger(__name__)

RETRIES = 2  # a job whose worker dies this often more is the candidate's failure
PATIENCE = 30.0  # seconds before a word about workers that have no place yet
MANY = 10**6
Share = Annotated[float, Range(0, 4096)]  # of a machine's cores or GPUs


class _Actor:
    """A worker in the driver's folder, so that relative paths mean the same; a cluster may have started elsewhere."""

    def __init__(self, spec: WorkerSpec, folder: str) -> None:
        from evomerge.workers import Worker  # the settings of a pool are checked before torch is loaded

        if os.path.isdir(folder):
            os.chdir(folder)
        self._worker = Worker(spec)

    def attempt(self, job: Job) -> Outcome:
        """See `Worker.attempt`."""
        return self._worker.attempt(job)

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """See `Worker.extend`."""
        self._worker.extend(requests)

    def fingerprint(self, recipe: Recipe) -> str:
        """See `Worker.fingerprint`."""
        return self._worker.fingerprint(recipe)


class RayPool:
    """Keeps `workers` actors busy; a lost actor is replaced and its job given to another."""

    def __init__(self, spec: WorkerSpec, workers: int, num_cpus: float, num_gpus: float, address: str | None) -> None:
        self._ray, self._started_here = _connect(address)
        self._idle: list[tuple[Any, str | None]] = []
        self._each = (num_cpus, num_gpus)
        try:
            _refuse_missing(self._nodes(), workers, num_cpus, num_gpus)
        except ConfigError:
            self.close()
            raise
        threads = str(max(1, int(num_cpus)))
        options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": 0}
        self._actor = self._ray.remote(**options, runtime_env={"env_vars": {"OMP_NUM_THREADS": threads}})(_Actor)
        self._spec = self._ray.put(spec)
        self._folder = os.getcwd()
        self._more: list[Any] = []  # chunks beyond those of the spec
        self._idle = [(self._spawn(), None) for _ in range(workers)]
        self._wait_until_ready()

    def run(self, jobs: JobQueue) -> Iterator[Outcome]:
        """Outcomes as they come; see `Pool.run`."""
        busy: dict[Any, tuple[Any, Job]] = {}
        lost: dict[tuple[str, str], int] = {}
        while True:
            self._assign(jobs, busy)
            if not busy:
                return
            (ref,), _ = self._ray.wait(list(busy), num_returns=1)
            worker, job = busy.pop(ref)
            outcome = self._outcome(ref, worker, job, lost, jobs, len(busy))
            if outcome is not None:
                yield outcome

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """More chunks for every actor; a later one gets them as it begins."""
        self._more.append(self._ray.put(dict(requests)))
        for worker, _ in self._idle:
            worker.extend.remote(self._more[-1])

    def fingerprint(self, recipe: Recipe) -> str:
        """The fingerprint of a candidate as a worker would score it; RunError where it cannot be built there."""
        for _ in range(RETRIES + 1):
            worker, _ = self._idle.pop()
            try:
                found = str(self._ray.get(worker.fingerprint.remote(recipe)))
            except self._ray.exceptions.RayTaskError as error:
                self._idle.append((worker, None))
                raise RunError(f"the winner cannot be built: {error.cause}") from None
            except self._ray.exceptions.RayError:
                self._idle.append((self._spawn(), None))
            else:
                self._idle.append((worker, recipe.key()))
                return found
        raise RunError(f"pool=ray: {RETRIES + 1} workers died while building the winner; look at the node's memory")

    def close(self) -> None:
        """Stop the actors, and Ray itself where this pool has started it."""
        for worker, _ in self._idle:
            self._ray.kill(worker)
        if self._started_here:
            self._ray.shutdown()

    def _assign(self, dispatch: JobQueue, busy: dict[Any, Any]) -> None:
        still: list[tuple[Any, str | None]] = []
        for worker, holding in self._idle:
            job = dispatch.next(holding)
            if job is None:
                still.append((worker, holding))
            else:
                busy[worker.attempt.remote(job)] = (worker, job)
        self._idle = still

    def _outcome(
        self, ref: Any, worker: Any, job: Job, lost: dict[tuple[str, str], int], dispatch: JobQueue, busy: int
    ) -> Outcome | None:
        """The job's outcome, or None where its worker died and the job waits again."""
        try:
            outcome: Outcome = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append((worker, None))
            return Outcome(job, error=f"{type(error.cause).__name__}: {error.cause}")
        except self._ray.exceptions.RayError as error:
            self._replace(len(self._idle) + busy)
            count = lost[job.key, job.chunk] = lost.get((job.key, job.chunk), 0) + 1
            if count <= RETRIES:
                dispatch.requeue(job)
                return None
            return Outcome(job, error=f"its worker died {count} times ({type(error).__name__})")
        self._idle.append((worker, job.key))
        return outcome

    def _replace(self, left: int) -> None:
        """A new worker for a lost one where a node has room, fewer workers otherwise; RunError where none is left."""
        if sum(_room(node, *self._each) for node in self._nodes()) > left:
            self._idle.append((self._spawn(), None))
        elif left:
            log.warning("a worker is lost and no node has room for another: %d go on", left)
        else:
            raise RunError("pool=ray: no node has room for a worker any more; repeat the command when one is back")

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _spawn(self) -> Any:
        worker = self._actor.remote(self._spec, self._folder)
        for requests in self._more:
            worker.extend.remote(requests)  # an actor runs its calls in their order
        return worker

    def _wait_until_ready(self) -> None:
        """A constructor that raises shows here, once, instead of as dead workers for ever."""
        waiting = [worker.__ray_ready__.remote() for worker, _ in self._idle]
        try:
            while waiting:
                ready, waiting = self._ray.wait(waiting, num_returns=len(waiting), timeout=PATIENCE)
                self._ray.get(ready)
                if waiting:
                    log.warning("waiting for %d of %d workers: the cluster is busy", len(waiting), len(self._idle))
        except self._ray.exceptions.RayError as error:
            self.close()
            reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
            raise RunError(f"pool=ray: a worker could not start ({reason})") from None


def check(*, workers: int = 2, num_cpus: float = 1, num_gpus: float = 0, address: str | None = None) -> None:
    """ConfigError for a share that no GPU has or, without a cluster, more than this machine has."""
    if num_gpus > 1 and num_gpus != int(num_gpus):
        raise ConfigError(f"pool.num_gpus={num_gpus}: give whole GPUs above 1")
    if address is None:
        _refuse_missing([{"CPU": float(os.cpu_count() or 1), "GPU": _gpus(num_gpus)}], workers, num_cpus, num_gpus)


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
    address: Annotated[str, Text(r"[\w.:/\[\]-]{1,255}", "auto, or host:port")] | None = None,
) -> RayPool:
    """`workers` actors with `num_cpus` and `num_gpus` each (fractions share a GPU); `address: auto` joins a cluster."""
    return RayPool(spec, workers, num_cpus, num_gpus, address)


def _connect(address: str | None) -> tuple[Any, bool]:
    """Ray, connected, and whether this call has started it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # leaves CUDA_VISIBLE_DEVICES of CPU actors alone
    try:
        import ray
    except ImportError:
        raise ConfigError("pool=ray: ray is not installed; pip install ray, or use pool=local") from None
    if ray.is_initialized():
        return ray, False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        quiet["include_dashboard"] = False
    _refuse_silent(address)
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"pool.address={address}: no Ray cluster there ({reason}); run `ray start --head`") from None
    return ray, True


def _refuse_silent(address: str | None) -> None:
    """RunError where nothing answers at host:port, which Ray would try for ever."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise RunError(f"pool.address={address}: nothing answers there ({error}); is the cluster running?") from None


def _refuse_missing(nodes: Sequence[Mapping[str, float]], workers: int, num_cpus: float, num_gpus: float) -> None:
    """Ray would wait for ever for a worker that no node has room for."""
    room = sum(_room(node, num_cpus, num_gpus) for node in nodes)
    if room < workers:
        have = ", ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes)
        raise ConfigError(
            f"pool: {workers} workers of {num_cpus:g} CPU and {num_gpus:g} GPU each, but there is room for {room:g} "
            f"(nodes: {have}); lower pool.workers, pool.num_cpus or pool.num_gpus"
        )


def _room(node: Mapping[str, float], num_cpus: float, num_gpus: float) -> float:
    """How many workers fit on a node; a worker's fraction of a GPU lies on one GPU."""
    by_cpu = math.floor(node.get("CPU", 0.0) / num_cpus + 1e-9) if num_cpus else math.inf
    if not num_gpus:
        return by_cpu if math.isfinite(by_cpu) else float(MANY)
    gpus = int(node.get("GPU", 0.0))
    by_gpu = gpus * math.floor(1 / num_gpus + 1e-9) if num_gpus < 1 else gpus // int(num_gpus)
    return min(by_cpu, by_gpu)
