"""Ray itself dies: one line of ours, none of Ray's, within seconds."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from evomerge.errors import RunError
from evomerge.workers.jobs import WorkerSpec
from evomerge.workers.model_config import ModelConfig
from evomerge.workers.pools._ray_fleet import RayFleet
from evomerge.workers.pools._resources import Claim
from tests.conftest import ROOT
from tests.workers.test_worker import BASE

DRIVER = """
import sys
import psutil
from evomerge.errors import RunError
from evomerge.workers import pools
from tests.workers.pools.test_ray_cluster import SPEC, JobQueue, todo
pool = pools.create("ray", SPEC, {"workers": 2, "address": "local"})
done = 0
try:
    for outcome in pool.run(JobQueue(todo(5000))):
        done += 1
        if done == 5:
            for process in psutil.Process().children(recursive=True):
                if process.name() == sys.argv[1]:
                    process.kill()
except RunError as error:
    print(error, flush=True)
pool.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("process", "reason"), [("raylet", "its raylet has ended"), ("gcs_server", "refused")])
def test_a_process_of_ray_is_killed(process: str, reason: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, process],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0 and done.stdout.count("\n") == 1, done
    assert "Ray on this machine has died" in done.stdout and reason in done.stdout


def fleet(head: str, nodes: list[dict[str, Any]], options: dict[str, Any] | None = None) -> RayFleet:
    """A fleet of a Ray that is made up."""

    def remote(**found: Any) -> Any:
        (options if options is not None else {}).update(found)
        return lambda cls: cls

    ray = SimpleNamespace(
        remote=remote, put=lambda value: value, get_runtime_context=lambda: SimpleNamespace(gcs_address=head)
    )
    ray.nodes = lambda: nodes
    return RayFleet(ray, WorkerSpec(BASE, (), {}, ModelConfig()), Claim(2, 0.25), 2)


def test_a_head_that_refuses_connections_is_dead() -> None:
    with pytest.raises(RunError, match=r"Ray on this machine has died \(Connection refused\); repeat the command"):
        fleet("127.0.0.1:1", [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}]).room()


def test_the_room_is_that_of_living_nodes_and_actors_are_spread() -> None:
    options: dict[str, Any] = {}
    node = {"CPU": 4.0, "GPU": 1.0}
    made = fleet("", [{"Alive": True, "Resources": node}, {"Alive": False, "Resources": node}], options)
    assert made.room() == 2
    assert options["scheduling_strategy"] == "SPREAD" and options["num_gpus"] == 0.25
    assert options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "2"
