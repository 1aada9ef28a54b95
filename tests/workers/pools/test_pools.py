"""What every pool promises before it starts anything, and the local one at work."""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import psutil
import pytest

from evomerge.errors import ConfigError
from evomerge.workers import pools
from evomerge.workers.jobs import Job, WorkerSpec
from evomerge.workers.model_config import ModelConfig
from evomerge.workers.pools import JobQueue
from evomerge.workers.pools._resources import Claim
from tests.conftest import ROOT
from tests.workers.test_worker import BASE, EXPERTS, WORK, merged


def test_the_folder_is_the_list() -> None:
    assert pools.names() == ("local", "ray")


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("lokal", {}, "did you mean 'local'"),
        ("local", {"thread": 2}, "did you mean 'threads'"),
        ("local", {"threads": 0}, "pool.threads=0"),
        ("ray", {"worker": 2}, "did you mean 'workers'"),
        ("ray", {"workers": 0}, "workers=0"),
        ("ray", {"num_cpus": -1}, "num_cpus=-1"),
        ("ray", {"num_gpus": 1.5, "address": "auto"}, "num_gpus=1.5"),
        ("ray", {"workers": 10_000}, "lower pool.workers"),
        ("ray", {"workers": 1, "num_gpus": 99}, "99 GPU"),
    ],
)
def test_a_setting_that_cannot_be_met_is_refused_at_once(name: str, settings: Mapping[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        pools.check(name, settings)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=text):
        pools.create(name, WorkerSpec(BASE, EXPERTS, {}, ModelConfig(dtype="float32")), settings)


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "gpus", "fits"),
    [
        ([{"CPU": 4.0}], 4, 1, 0, True),
        ([{"CPU": 4.0}], 5, 1, 0, False),
        ([{"CPU": 2.0}, {"CPU": 2.0}], 4, 1, 0, True),
        ([{"CPU": 2.0}, {"CPU": 2.0}], 1, 3, 0, False),  # no node has three
        ([{"CPU": 8.0, "GPU": 2.0}], 4, 1, 0.5, True),
        ([{"CPU": 8.0, "GPU": 2.0}], 3, 1, 0.6, False),  # two on one GPU would be 1.2
        ([{"CPU": 8.0, "GPU": 2.0}], 2, 1, 0.6, True),
        ([{"CPU": 8.0, "GPU": 1.0}], 10, 0.5, 0.1, True),
        ([{"CPU": 8.0, "GPU": 4.0}], 2, 1, 2, True),
        ([{"CPU": 8.0, "GPU": 3.0}], 2, 1, 2, False),
        ([{"CPU": 1.0}], 50, 0, 0, True),
        ([{}], 1, 1, 0, False),
    ],
)
def test_workers_are_counted_node_by_node(
    nodes: list[dict[str, float]], workers: int, cpus: float, gpus: float, fits: bool
) -> None:
    if fits:
        Claim(cpus, gpus).refuse_missing(nodes, workers)
    else:
        with pytest.raises(ConfigError, match="room for"):
            Claim(cpus, gpus).refuse_missing(nodes, workers)


@pytest.mark.slow
def test_auto_without_a_cluster_is_one_line() -> None:
    """In a process of its own; `auto` would find any Ray of this machine."""
    if any(process.info["name"] == "gcs_server" for process in psutil.process_iter(["name"])):
        pytest.skip("a Ray cluster runs on this machine")
    script = (
        "from evomerge.errors import RunError; from evomerge.workers.pools._ray_connection import connect\n"
        "try: connect('auto')\n"
        "except RunError as error: print(error)"
    )
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=env, timeout=120, cwd=ROOT
    )
    assert "pool.address=auto: no Ray cluster there" in done.stdout and done.stdout.count("\n") == 1, done


@pytest.mark.slow
def test_a_wrong_address_is_one_line() -> None:
    script = (
        "from evomerge.errors import RunError; from evomerge.workers.pools._ray_connection import connect\n"
        "try: connect('127.0.0.1:1')\n"
        "except RunError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=40, cwd=ROOT)
    assert "pool.address=127.0.0.1:1" in done.stdout and done.stdout.count("\n") == 1, done


def test_local_answers_every_job_and_leaves_out_what_is_dropped_meanwhile() -> None:
    pool = pools.create("local", WorkerSpec(BASE, EXPERTS, WORK, ModelConfig(dtype="float32", device="cpu")), {})
    good, bad = merged(0.5, 0.5), merged(1e40, 1.0)
    todo = [Job(r.key(), r, f"search/{i}") for r in (bad, good) for i in range(2)]
    jobs, outcomes = JobQueue(todo), []
    for outcome in pool.run(jobs):
        outcomes.append(outcome)
        if outcome.error is not None:
            jobs.drop(outcome.job.key)
    assert [(outcome.job, outcome.error is None) for outcome in outcomes] == [
        (todo[0], False),
        (todo[2], True),
        (todo[3], True),
    ]
    assert list(pool.run(JobQueue())) == []
    assert pool.fingerprint(good) == pool.fingerprint(good)
    pool.close()
