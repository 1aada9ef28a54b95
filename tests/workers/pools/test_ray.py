"""Ray on this machine: the same scores as in process, lost actors, places that do not exist. All slow: Ray starts."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from evomerge.errors import ConfigError, RunError
from evomerge.recipes.recipe import ModelRef
from evomerge.workers import pools
from evomerge.workers.jobs import Job, WorkerSpec
from evomerge.workers.model_config import ModelConfig
from evomerge.workers.pools import JobQueue
from evomerge.workers.pools.ray import RayPool
from tests.conftest import SMALL, evomerge
from tests.experiment.test_run import scores_of, without_timings
from tests.workers.test_worker import BASE, EXPERTS, REQUESTS, WORK, merged

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default::ResourceWarning", "default::DeprecationWarning", "default::FutureWarning"),
]
SPEC = WorkerSpec(BASE, EXPERTS, WORK, ModelConfig(dtype="float32", device="cpu"))


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Any]:
    """One Ray for this file, which believes in four cores and two GPUs."""
    ray = pytest.importorskip("ray")
    ray.init(
        address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def pool() -> Iterator[RayPool]:
    made = pools.create("ray", SPEC, {"workers": 2, "address": "auto"})
    assert isinstance(made, RayPool)
    yield made
    made.close()


def todo(*candidates: tuple[float, float]) -> list[Job]:
    return [Job(r.key(), r, f"search/{i}") for r in (merged(*c) for c in candidates) for i in range(2)]


def pids(ray: Any, pool: RayPool) -> list[int]:
    return [int(ray.get(w.worker.__ray_call__.remote(lambda self: os.getpid()))) for w in pool.crew.members]


def answers(pool: pools.Pool, jobs: list[Job]) -> dict[tuple[str, str], Any]:
    return {(o.job.key, o.job.chunk): o.responses if o.error is None else "failed" for o in pool.run(JobQueue(jobs))}


def test_answers_and_fingerprints_are_those_of_the_local_pool(pool: RayPool) -> None:
    jobs = todo((0.0, 0.0), (0.5, 0.5), (1.0, 0.2), (0.3, 1.4))
    local = pools.create("local", SPEC, {"threads": 1})
    assert answers(pool, jobs) == answers(local, jobs)
    assert pool.fingerprint(jobs[2].recipe) == local.fingerprint(jobs[2].recipe)


def test_every_actor_learns_of_more_chunks_and_so_does_a_later_one(cluster: Any, pool: RayPool) -> None:
    pool.extend({"search/later/0": REQUESTS["search/0"]})
    before = pids(cluster, pool)
    os.kill(before[0], signal.SIGKILL)
    jobs = [Job(r.key(), r, "search/later/0") for r in (merged(0.1, w) for w in (0.0, 0.2, 0.4, 0.6))]
    found = answers(pool, jobs)
    alone = answers(pools.create("local", SPEC, {"threads": 1}), [Job(job.key, job.recipe, "search/0") for job in jobs])
    assert len(found) == 4 and {k[0]: v for k, v in found.items()} == {k[0]: v for k, v in alone.items()}


def test_a_failing_candidate_takes_its_own_jobs_only(pool: RayPool) -> None:
    jobs = todo((1e40, 1.0), (0.5, 0.5))
    found = answers(pool, jobs)
    assert {key for (key, _), value in found.items() if value == "failed"} == {jobs[0].key}
    assert all(found[job.key, job.chunk] != "failed" for job in jobs[2:])


def test_an_actor_killed_while_idle_is_replaced(cluster: Any, pool: RayPool) -> None:
    recipe = merged(0.5, 0.5)
    before = pool.fingerprint(recipe)
    for pid in pids(cluster, pool):
        os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    assert pool.fingerprint(recipe) == before
    jobs = todo((0.5, 0.5), (0.1, 0.2))
    assert len(answers(pool, jobs)) == 4 and "failed" not in answers(pool, jobs).values()


def test_an_actor_killed_at_work_loses_no_job(cluster: Any, pool: RayPool) -> None:
    jobs = todo(*((0.01 * i, 0.5) for i in range(40)))
    expected = answers(pool, jobs)
    victim = pids(cluster, pool)[0]
    found: dict[tuple[str, str], Any] = {}
    for outcome in pool.run(JobQueue(jobs)):
        found[outcome.job.key, outcome.job.chunk] = outcome.responses
        if len(found) == 10:
            os.kill(victim, signal.SIGKILL)
    assert found == expected
    assert victim not in pids(cluster, pool)


def test_an_actor_that_stops_answering_is_replaced_and_loses_no_job(cluster: Any) -> None:
    jobs = todo(*((0.01 * i, 0.5) for i in range(40)))
    made = pools.create("ray", SPEC, {"workers": 2, "address": "auto", "timeout": 3})
    assert isinstance(made, RayPool)
    try:
        expected, victim = answers(made, jobs), pids(cluster, made)[0]
        found: dict[tuple[str, str], Any] = {}
        for outcome in made.run(JobQueue(jobs)):
            found[outcome.job.key, outcome.job.chunk] = outcome.responses
            if len(found) == 10:
                os.kill(victim, signal.SIGSTOP)
        assert found == expected and not any(str(victim) in member.place.split() for member in made.crew.members)
    finally:
        made.close()
    start = time.monotonic()
    while psutil.pid_exists(victim) and time.monotonic() - start < 30:  # Ray waits five seconds for its answer
        time.sleep(0.2)
    assert not psutil.pid_exists(victim)


def within(seconds: float, settings: dict[str, Any], spec: WorkerSpec = SPEC) -> Exception | None:
    """What creating the pool raises; a hang fails the test."""
    raised: list[Exception | None] = []

    def create() -> None:
        try:
            pools.create("ray", spec, settings).close()
            raised.append(None)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=create, daemon=True)
    thread.start()
    thread.join(seconds)
    assert raised, f"{settings} hangs"
    return raised[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"workers": 5},
        {"workers": 1, "num_cpus": 5},
        {"workers": 1, "num_gpus": 3},
        {"workers": 3, "num_gpus": 0.6},
        {"workers": 1, "num_gpus": 1.5},
    ],
)
def test_a_place_that_the_cluster_lacks_is_an_error_not_a_hang(settings: dict[str, Any]) -> None:
    assert isinstance(within(20, {**settings, "address": "auto"}), ConfigError)


def test_two_workers_share_each_gpu(cluster: Any) -> None:
    pool = pools.create("ray", SPEC, {"workers": 4, "num_cpus": 0.5, "num_gpus": 0.5, "address": "auto"})
    assert isinstance(pool, RayPool)
    try:
        gpus = [
            cluster.get(member.worker.__ray_call__.remote(lambda self: os.environ.get("CUDA_VISIBLE_DEVICES")))
            for member in pool.crew.members
        ]
    finally:
        pool.close()
    assert sorted(gpus) == ["0", "0", "1", "1"]


def test_a_worker_that_cannot_start_is_one_line() -> None:
    error = within(
        60,
        {"workers": 1, "address": "auto"},
        WorkerSpec(ModelRef("/no/such/base"), (), {}, ModelConfig(dtype="float32", device="cpu")),
    )
    assert isinstance(error, RunError) and "/no/such/base: no such folder" in str(error) and "\n" not in str(error)


def test_a_run_on_ray_is_the_run_on_the_local_pool(finished: Path, tmp_path: Path) -> None:
    said = evomerge("+experiment=quickstart", *SMALL, "pool=ray", cwd=tmp_path)
    assert said.code == 0, said
    folder = tmp_path / "runs" / "quickstart"
    assert scores_of(folder) == scores_of(finished)
    assert without_timings(folder) == without_timings(finished)
    assert (folder / "recipe.yaml").read_bytes() == (finished / "recipe.yaml").read_bytes()


def test_a_run_may_change_its_pool_half_way(finished: Path, tmp_path: Path) -> None:
    assert evomerge("+experiment=quickstart", *SMALL, "budget.evaluations=5", "pool=ray", cwd=tmp_path).code == 0
    assert evomerge("+experiment=quickstart", *SMALL, cwd=tmp_path).code == 0
    folder = tmp_path / "runs" / "quickstart"
    assert without_timings(folder)["winner"] == without_timings(finished)["winner"]


def test_relative_paths_mean_the_same_for_an_actor(mine: Path) -> None:
    """The cluster of this file was started in another directory."""
    said = evomerge("+experiment=mine", *SMALL, "pool=ray", "name=again", cwd=mine)
    assert said.code == 0, said
    header = json.loads((mine / "runs" / "again" / "trials.jsonl").read_text().splitlines()[0])
    assert header["config"]["base"] == "family/base"
    assert scores_of(mine / "runs" / "again") == scores_of(mine / "runs" / "mine")
