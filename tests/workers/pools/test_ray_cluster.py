"""A cluster of three nodes on this machine: workers spread over it, nodes lost and joined, a driver killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from evomerge.workers import pools
from evomerge.workers.jobs import Job, WorkerSpec
from evomerge.workers.model_config import ModelConfig
from evomerge.workers.pools import JobQueue
from evomerge.workers.pools.ray import RayPool
from tests.conftest import ROOT
from tests.workers.test_worker import BASE, EXPERTS, WORK, merged

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default::ResourceWarning", "default::DeprecationWarning", "default::FutureWarning"),
]
SPEC = WorkerSpec(BASE, EXPERTS, WORK, ModelConfig(dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and two nodes, with two CPUs each; ours is the head."""
    ray = pytest.importorskip("ray")
    utilities = pytest.importorskip("ray.cluster_utils")
    made = utilities.Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=2)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def todo(count: int) -> list[Job]:
    return [Job(r.key(), r, f"search/{i}") for r in (merged(0.01 * n, 0.5) for n in range(count)) for i in range(2)]


def answers(pool: pools.Pool, jobs: list[Job]) -> dict[tuple[str, str], Any]:
    return {(o.job.key, o.job.chunk): o.responses if o.error is None else "failed" for o in pool.run(JobQueue(jobs))}


def nodes_of(pool: RayPool) -> list[str]:
    import ray

    where = [
        m.worker.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id()) for m in pool.crew.members
    ]
    return [str(node) for node in ray.get(where)]


def test_workers_are_spread_and_a_lost_node_costs_nothing_and_a_new_one_is_used(cluster: Any) -> None:
    jobs = todo(150)
    expected = answers(pools.create("local", SPEC, {"threads": 1}), jobs)
    pool = pools.create("ray", SPEC, {"workers": 3, "num_cpus": 2, "threads": 1, "address": cluster.address})
    assert isinstance(pool, RayPool)
    try:
        assert len(set(nodes_of(pool))) == 3
        found: dict[tuple[str, str], Any] = {}
        for outcome in pool.run(JobQueue(jobs)):
            found[outcome.job.key, outcome.job.chunk] = outcome.responses
            if len(found) == 20:
                cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        assert found == expected
        cluster.add_node(num_cpus=2)
        start = time.monotonic()
        while time.monotonic() - start < 120 and len(pool.crew.idle()) < 3:
            pool.crew.wait()
        assert len(set(nodes_of(pool))) == 3
        assert answers(pool, jobs[:20]) == {(job.key, job.chunk): expected[job.key, job.chunk] for job in jobs[:20]}
    finally:
        pool.close()


def test_several_small_workers_are_spread_too(cluster: Any) -> None:
    pool = pools.create("ray", SPEC, {"workers": 3, "num_cpus": 0.5, "address": cluster.address, "threads": 1})
    assert isinstance(pool, RayPool)
    try:
        assert len(set(nodes_of(pool))) >= 2, "not packed on one node"
    finally:
        pool.close()


DRIVER = """
import sys
from tests.workers.pools.test_ray_cluster import SPEC, pools
pool = pools.create("ray", SPEC, {"workers": 1, "address": sys.argv[1]})
print(pool.crew.members[0].place.split()[1], flush=True)
sys.stdin.read()
"""


def test_a_killed_driver_leaves_no_actor(cluster: Any) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, cluster.address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with driver:
        assert driver.stdout is not None
        actor = psutil.Process(int(driver.stdout.readline()))
        driver.send_signal(signal.SIGKILL)
        start = time.monotonic()
        while time.monotonic() - start < 30 and actor.is_running() and actor.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.2)
    assert not actor.is_running() or actor.status() == psutil.STATUS_ZOMBIE
