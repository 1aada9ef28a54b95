"""Workers as Ray actors, spread over the nodes of a cluster."""

import contextlib
import logging
import os
import shlex
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import RunError
from evomerge.recipes import Recipe, TensorFile
from evomerge.scoring import Request
from evomerge.version import __version__
from evomerge.workers import Job, Outcome, WorkerSpec
from evomerge.workers.pools._contract import Routers
from evomerge.workers.pools._fleet import CallError, WorkerLostError
from evomerge.workers.pools._resources import Claim
from evomerge.workers.pools._sharing import SharedCluster

if TYPE_CHECKING:
    from evomerge.routing import RouterWork

log = logging.getLogger(__name__)

# Ray starts actors with the variables of its own processes; with others than here they would read other weights
FORWARDED = ("EVOMERGE_CACHE", "EVOMERGE_DEQUANTISED_DTYPE")
SILENCE = 20.0  # seconds for which a cluster's head may be out of reach
MEMORY = (
    "its node is out of memory, and Ray has killed it; lower pool.workers, or set RAY_memory_usage_threshold higher"
)

DIED = "pool=ray: Ray {} has died ({}); repeat the command, nothing is lost"


class Actor:
    """A worker in the driver's folder, so that relative paths are valid: Ray may have been started in another one."""

    def place(self) -> str:
        """Where it runs, for people."""
        return f"worker {os.getpid()} on {socket.gethostname()}"

    def load(self, spec: WorkerSpec, folder: str, version: str, host: str) -> None:
        """Load the model; on another machine than `host`, where the search runs, after its weights are compared."""
        if version != __version__:
            raise RuntimeError(
                f"evomerge {__version__} is installed there, and {version} where the search runs; install the same"
            )
        if os.path.isdir(folder):
            os.chdir(folder)
        # imported here: the settings of a pool are checked before torch is loaded
        from evomerge.workers import Worker, refuse_other_models

        if socket.gethostname() != host:
            refuse_other_models(spec)
        self._worker = Worker(spec)

    def attempt(self, job: Job, routers: bytes | None = None) -> Outcome:
        """See `Worker.attempt`; `routers` is the content of the recipe's file of routers."""
        return self._worker.attempt(replace(job, recipe=_at_hand(job.recipe, routers)))

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """See `Worker.extend`."""
        self._worker.extend(requests)

    def fingerprint(self, recipe: Recipe, routers: bytes | None = None) -> str:
        """See `Worker.fingerprint`."""
        return self._worker.fingerprint(_at_hand(recipe, routers))

    def calibrate(self, recipe: Recipe, work: "RouterWork") -> Routers:
        """See `Worker.calibrate`."""
        return self._worker.calibrate(recipe, work)


def _at_hand(recipe: Recipe, routers: bytes | None) -> Recipe:
    from evomerge.merging import routers_at_hand  # here, because it loads torch

    return routers_at_hand(recipe, routers)


class RayNotes:
    """The notes of the searches on a cluster, in the key-value store of its head, which Ray's libraries use too."""

    NAMESPACE = b"evomerge"

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    @property
    def _store(self) -> Any:
        return self._ray.experimental.internal_kv

    def read(self) -> dict[str, str]:
        """See `Notes.read`."""
        names = self._store._internal_kv_list(b"", namespace=self.NAMESPACE)
        notes = {name.decode(): self._store._internal_kv_get(name, namespace=self.NAMESPACE) for name in names}
        return {name: note.decode() for name, note in notes.items() if note is not None}

    def write(self, search: str, note: str) -> None:
        """See `Notes.write`."""
        self._store._internal_kv_put(search.encode(), note.encode(), overwrite=True, namespace=self.NAMESPACE)

    def remove(self, search: str) -> None:
        """See `Notes.remove`."""
        self._store._internal_kv_del(search.encode(), namespace=self.NAMESPACE)


class RayFleet:
    """Starts actors, with the interpreter `python` if one is given, and passes calls to them; see `Fleet`."""

    def __init__(self, ray: Any, spec: WorkerSpec, claim: Claim, threads: int, python: str | None = None) -> None:
        self._ray, self._claim = ray, claim
        options = {
            "num_cpus": claim.cpus,
            "num_gpus": claim.gpus,
            "max_restarts": 0,
            "scheduling_strategy": "SPREAD",  # over the nodes: by default Ray fills one after the other
        }
        set_here = {name: value for name in FORWARDED if (value := os.environ.get(name))}
        variables = {"OMP_NUM_THREADS": str(threads), **set_here}
        environment: dict[str, Any] = {"env_vars": variables}
        if python:
            environment["py_executable"] = shlex.quote(python)  # Ray takes it for a line of shell
        self._actor = ray.remote(**options, runtime_env=environment)(Actor)
        self._spec = ray.put(spec)
        self._folder = os.getcwd()
        self._files: dict[TensorFile, Any] = {}  # file of routers → a reference to its content
        self._added: list[Any] = []  # references to chunks that `extend` has added to those of the spec
        self._head = _head_address(ray)
        self._silent_since: float | None = None
        self._room = 0.0  # when the head was last reached
        self._sharing = SharedCluster(RayNotes(ray))
        self._share: int | None = None  # when it was last computed

    def spawn(self) -> tuple[Any, Any]:
        """See `Fleet.spawn`."""
        worker = self._actor.remote()
        return worker, worker.place.remote()

    def load(self, worker: Any) -> Any:
        """See `Fleet.load`."""
        loaded = worker.load.remote(self._spec, self._folder, __version__, socket.gethostname())
        for requests in self._added:
            worker.extend.remote(requests)  # an actor runs its calls in order, so before the first job
        return loaded

    def attempt(self, worker: Any, job: Job) -> Any:
        """See `Fleet.attempt`."""
        return worker.attempt.remote(job, self._routers(job.recipe))

    def fingerprint(self, worker: Any, recipe: Recipe) -> Any:
        """A reference to the fingerprint of a candidate's weights."""
        return worker.fingerprint.remote(recipe, self._routers(recipe))

    def calibrate(self, worker: Any, recipe: Recipe, work: "RouterWork") -> Any:
        """A reference to the calibrated routers of a candidate."""
        return worker.calibrate.remote(recipe, work)

    def _routers(self, recipe: Recipe) -> Any:
        """A reference to the content of the recipe's file of routers, which other machines do not have; else None."""
        if recipe.routers is None:
            return None
        if recipe.routers not in self._files:
            self._files[recipe.routers] = self._ray.put(Path(recipe.routers.path).read_bytes())
        return self._files[recipe.routers]

    def extend(self, workers: Sequence[Any], requests: Mapping[str, Sequence[Request]]) -> None:
        """Add chunks to these workers, and to all that are loaded later."""
        self._added.append(self._ray.put(dict(requests)))
        for worker in workers:
            worker.extend.remote(self._added[-1])

    def wait(self, refs: Sequence[Any], timeout: float) -> list[Any]:
        """See `Fleet.wait`."""
        if not refs:
            time.sleep(timeout)
            return []
        done, others = self._ray.wait(list(refs), num_returns=1, timeout=timeout)
        if done and others:
            done += self._ray.wait(others, num_returns=len(others), timeout=0)[0]
        return list(done)

    def result(self, ref: Any) -> Any:
        """See `Fleet.result`."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.RayActorError as error:  # before RayTaskError: an error may be both
            raise WorkerLostError(loss_reason(error)) from None
        except errors.RayTaskError as error:
            cause = getattr(error, "cause", error)
            raise CallError(f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}") from None
        except errors.RayError as error:
            raise WorkerLostError(loss_reason(error)) from None

    def kill(self, worker: Any) -> None:
        """See `Fleet.kill`; Ray ends a process that does not answer after five seconds."""
        self._ray.kill(worker)

    def nodes(self) -> list[dict[str, float]]:
        """The resources of each living node."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def room(self) -> float:
        """See `Fleet.room`."""
        if self._head_answers():
            nodes = self.nodes()
            if not nodes and self._is_local:
                raise RunError(DIED.format("on this machine", "its raylet has ended"))
            self._room = float(sum(map(self._claim.capacity, nodes)))
        return self._room

    def fair_share(self, workers: int) -> int:
        """See `Fleet.fair_share`; a line says so when it changes."""
        if self._silent_since is not None:
            return workers if self._share is None else self._share
        share = self._sharing.fair(workers, self._room)
        if share != (workers if self._share is None else self._share):
            others = self._sharing.others()
            log.warning("%d of %d workers, as %d other searches use this cluster", share, workers, others)
        self._share = share
        return share

    def is_shared(self) -> bool:
        """See `Fleet.is_shared`."""
        return self._sharing.others() > 0

    def leave(self) -> None:
        """Tell the other searches on the cluster that this one has ended.

        A head that cannot be reached is not asked: Ray would wait a minute for it, and then end this process.
        """
        with contextlib.suppress(Exception):  # of Ray, which may have died
            if self._silent_since is None and self._head_answers():
                self._sharing.leave()

    @property
    def _is_local(self) -> bool:
        return self._head is not None and self._head[0] == "127.0.0.1"

    def _head_answers(self) -> bool:
        """Whether the cluster's head can be reached; RunError if not for SILENCE, before Ray ends this process."""
        if self._head is None:
            return True
        try:
            socket.create_connection(self._head, timeout=SILENCE / 4).close()
        except OSError as error:
            now = time.monotonic()
            self._silent_since = self._silent_since or now
            if self._is_local or now - self._silent_since > SILENCE:
                where = "on this machine" if self._is_local else f"at {self._head[0]}:{self._head[1]}"
                raise RunError(DIED.format(where, error.strerror or error)) from None
            return False
        self._silent_since = None
        return True


def loss_reason(error: Exception) -> str:
    """Why an actor was lost, on one line, from the many lines that Ray gives."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if type(error).__name__ == "OutOfMemoryError" or "based on the killing policy" in str(error):
        return MEMORY
    telling = [line for line in lines if "because" in line or "died" in line] or lines
    if "Traceback" in str(error):
        telling = lines[-1:]
    return (telling[-1] if telling else type(error).__name__)[:300]


def _head_address(ray: Any) -> tuple[str, int] | None:
    """Where the cluster's head listens; None if the connection is that of Ray's client, which does not know it."""
    host, _, port = str(getattr(ray.get_runtime_context(), "gcs_address", "")).rpartition(":")
    return (host, int(port)) if host and port.isdigit() else None
