"""Which Ray is joined, why an actor was lost, and the one line for every address that cannot be."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evomerge.errors import ConfigError, RunError
from evomerge.workers.pools import _ray_connection as connection
from evomerge.workers.pools._ray_connection import cluster_address, explain
from evomerge.workers.pools._ray_fleet import MEMORY, loss_reason
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("address", "variable", "found"),
    [
        (None, None, None),
        ("local", None, None),
        ("local", "head:6379", None),
        (None, "head:6379", "head:6379"),
        ("auto", "head:6379", "head:6379"),
        (None, "local", None),
        ("auto", None, "auto"),
        ("other:6379", "head:6379", "other:6379"),
    ],
)
def test_the_address_is_that_of_the_setting_or_of_the_environment(
    address: str | None, variable: str | None, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert cluster_address(address)[0] == found


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("127.0.0.1", "write 127.0.0.1:6379"),
        ("ray://head", "write ray://head:10001"),
        ("head:", "write head:6379"),
        ("ray://head:x", "no port"),
    ],
)
def test_an_address_without_a_port_is_refused_with_the_address_to_write(address: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        connection._refuse_silent(address, f"pool.address={address}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["pool.address=127.0.0.1:1", "RAY_ADDRESS=127.0.0.1:1"])
def test_an_address_where_nothing_listens_is_one_line(name: str) -> None:
    with pytest.raises(RunError, match="nothing answers there") as caught:
        connection._refuse_silent("127.0.0.1:1", name)
    assert str(caught.value).startswith(name)
    assert ("unset it" in str(caught.value)) == name.startswith("RAY_ADDRESS")


def test_something_that_listens_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANSWER_LIMIT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(RunError, match="no Ray cluster has answered within"):
            connection._refuse_unconnectable(address, f"pool.address={address}")
    assert time.monotonic() - start < 20


VERSIONS = """RuntimeError: Version mismatch: The cluster was started with:
    Ray: 2.40.0
    Python: 3.12.1
This process on node 10.0.0.1 was started with:
    Ray: 2.60.0
"""
TOKEN = (
    "[2026-11-29 17:53:26,476 W 3318 3318] gcs_client.cc:210: Failed to get cluster ID from GCS server: "
    "Unauthenticated: RPC error: InvalidAuthToken: Authentication token is missing or incorrect\nRuntimeError: no"
)
CLIENT = "ValueError: Ray Client requires pip package `ray[client]`. If you installed the minimal Ray, please reinstall"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (VERSIONS, ("Ray: 2.40.0 Python: 3.12.1", "same versions of Ray and Python")),
        (TOKEN, ("(Failed to get cluster ID", "set RAY_AUTH_MODE=token")),
        (CLIENT, ("requires pip package", "pip install 'ray[client]'")),
        ("ConnectionError: Could not find any running Ray instance.", ("no Ray cluster there", "ray start --head")),
    ],
)
def test_what_ray_prints_becomes_one_line_with_the_remedy(text: str, found: tuple[str, str]) -> None:
    line = explain(text, is_named=True)
    assert all(part in line for part in found) and "\n" not in line, line


def test_a_token_of_the_user_is_named_where_ray_does_not_send_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert "token" not in explain("ConnectionError: no", is_named=True)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0")
    assert "RAY_AUTH_MODE=token" in explain("ConnectionError: no", is_named=True)
    assert "RAY_AUTH_MODE" not in explain("ConnectionError: no", is_named=False)


def test_a_loss_is_told_by_its_reason_not_by_the_last_line_of_advice() -> None:
    killed = (
        "Task was killed due to the node running low on memory.\n"
        "Memory on the node (IP: 127.0.0.1) was 23.0GB / 23.4GB, which exceeds the memory usage threshold of 0.95.\n"
        "Ray killed 2 worker(s) based on the killing policy\n"
        "Refer to the documentation. Consider provisioning more memory on this node. "
        "Set max_restarts and max_task_retries to enable retry when the task crashes due to OOM."
    )
    assert loss_reason(Exception(killed)) == MEMORY
    died = "The actor died unexpectedly.\n\tclass_name: A\nThe actor is dead because its node has died."
    assert loss_reason(Exception(died)) == "The actor is dead because its node has died."
    gone = (
        "The actor died: its worker has gone. Common causes: (1) the OOM killer due to high memory usage, (2) a crash"
    )
    assert loss_reason(Exception(gone)) == gone, "only a guess of Ray's"
    assert loss_reason(Exception("")) == "Exception"


LISTENERS = """
import psutil
from evomerge.workers.pools._ray_connection import connect
ray, _ = connect("local")
class A:
    def f(self): return 1
ray.get(ray.remote(A).remote().f.remote())
here = psutil.Process()
for process in [here, *here.children(recursive=True)]:
    for place in process.net_connections("tcp"):
        if place.status == psutil.CONN_LISTEN:
            print(place.laddr.ip.removeprefix("::ffff:"), process.name())
"""


@pytest.mark.slow
def test_a_local_ray_listens_on_the_loopback_interface_alone() -> None:
    done = subprocess.run([sys.executable, "-c", LISTENERS], capture_output=True, text=True, timeout=120, cwd=ROOT)
    places = [line.split()[0] for line in done.stdout.splitlines()]
    assert len(places) >= 4 and set(places) == {"127.0.0.1"}, done
