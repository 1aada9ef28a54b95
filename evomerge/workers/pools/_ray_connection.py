"""The connection to Ray: started here on the loopback interface, or a cluster of which it is known that it answers."""

import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, RunError

log = logging.getLogger(__name__)

LOCAL = "local"  # the address that starts Ray here, whatever RAY_ADDRESS says
ANSWER_LIMIT = 30.0  # seconds within which a cluster must accept a connection
PORT_LIMIT = 5.0  # seconds within which its port must
REASON = 250  # characters of what Ray says that a message quotes
OPTIONS: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
# In a process of its own, which can be ended: `ray.init` has no time limit and may end the process that calls it.
PROBE = """
import sys, ray
from ray._private import ray_constants
if sys.argv[2:]:
    ray_constants.ENABLE_RAY_CLUSTER = False
try:
    ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
except BaseException as error:
    sys.exit(f"{type(error).__name__}: {error}")
ray.shutdown()
"""
REMEDIES = (  # what Ray says, and what to do
    (r"[Vv]ersion mismatch", "install the same versions of Ray and Python here and on the cluster"),
    (
        r"[Aa]uthenticat|[Uu]nauthori[sz]ed|InvalidAuthToken|RAY_AUTH",
        "the cluster demands a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token to its token",
    ),
    (
        r"ray\[client\]|[Rr]ay [Cc]lient|grpcio?",
        "pip install 'ray[client]', or give pool.address=HOST:6379 on a node of it",
    ),
)


def connect(address: str | None) -> tuple[Any, bool]:
    """The connected ray module, and whether this call has connected it; ConfigError or RunError of one line."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # keep CUDA_VISIBLE_DEVICES of CPU actors
    try:
        import ray
    except ImportError:
        raise ConfigError("pool=ray: ray is not installed; pip install ray, or use pool=local") from None
    if ray.is_initialized():
        return ray, False
    _keep_quiet()
    found, name = cluster_address(address)
    if found is None:
        _start_here(ray)
    else:
        _refuse_silent(found, name)
        on_loopback = _listens_on_loopback_alone(ray, found)
        _refuse_unconnectable(found, name, on_loopback=on_loopback)
        with _loopback() if on_loopback else nullcontext():
            ray.init(address=found, **OPTIONS)
    return ray, True


@contextmanager
def shared_ray() -> Iterator[dict[str, str]]:
    """The variables by which other processes join the Ray that would be started here; none where a cluster is set."""
    if cluster_address(None)[0] is not None:
        yield {}
        return
    ray, _ = connect(None)
    try:
        variables = {"RAY_ADDRESS": str(ray.get_runtime_context().gcs_address)}
        if mode := os.environ.get("RAY_AUTH_MODE"):  # set by `ray.init`; the others would not send the token without it
            variables["RAY_AUTH_MODE"] = mode
        yield variables
    finally:
        ray.shutdown()


def cluster_address(address: str | None) -> tuple[str | None, str]:
    """The address of the cluster to join, or None to start Ray here, and the setting that it is from."""
    if address == LOCAL:
        return None, f"pool.address={address}"
    from_environment = os.environ.get("RAY_ADDRESS") if address in (None, "auto") else None
    if from_environment:
        return (None if from_environment == LOCAL else from_environment), f"RAY_ADDRESS={from_environment}"
    return address, f"pool.address={address}"


def _start_here(ray: Any) -> None:
    """Start Ray for this process alone, with all its ports on the loopback interface."""
    try:
        with _loopback():
            ray.init(address=LOCAL, include_dashboard=False, **OPTIONS)
    except Exception as error:
        raise RunError(
            f"pool=ray: Ray does not start on this machine ({_first_line(error)}); look at /tmp/ray, or use pool=local"
        ) from None


def _keep_quiet() -> None:
    """Log what Ray's processes report instead of printing it: 20 lines of its log if one of them dies."""
    from ray._private import worker

    def log_lines(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        for line in data.get("lines", ()):
            log.info("ray: %s", line)

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = log_lines


@contextmanager
def _loopback() -> Iterator[None]:
    """Within the context, Ray takes 127.0.0.1 for the address of this machine, as it does on macOS and Windows.

    `ray.init(_node_ip_address="127.0.0.1")` does not do that: Ray replaces the loopback by the address of a network.
    """
    from ray._private import ray_constants as constants

    before = getattr(constants, "ENABLE_RAY_CLUSTER", None)
    if before is None:  # another version of Ray; a test says so
        yield
        return
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _refuse_silent(address: str, name: str) -> None:
    """ConfigError without a port, RunError if nothing answers at host:port: Ray would try to connect without end."""
    if address == "auto":
        return
    bare = address.removeprefix("ray://")
    host, _, port = bare.rpartition(":")
    if not host or not port.isdigit():
        default = "10001" if address.startswith("ray://") else "6379"
        raise ConfigError(
            f"{name}: no port; write {address.rstrip(':')}:{default}, or auto for a cluster of this machine"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PORT_LIMIT).close()
    except (OSError, OverflowError) as error:
        remedy = "unset it, or give pool.address=local" if name.startswith("RAY_ADDRESS") else "is the cluster running?"
        raise RunError(f"{name}: nothing answers there ({error}); {remedy}") from None


def _listens_on_loopback_alone(ray: Any, address: str) -> bool:
    """Whether this is a Ray that another search has started here: Ray would replace 127.0.0.1 by another address."""
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost"):
        return False
    try:
        socket.create_connection((ray.util.get_node_ip_address(), int(port)), timeout=PORT_LIMIT).close()
    except OSError:
        return True
    return False


def _refuse_unconnectable(address: str, name: str, *, on_loopback: bool = False) -> None:
    """RunError with the reason and the remedy if a connection that is tried by another process fails."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", PROBE, address, *["loopback"] * on_loopback],
            capture_output=True,
            text=True,
            timeout=ANSWER_LIMIT,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise RunError(
            f"{name}: something listens there, but no Ray cluster has answered within {ANSWER_LIMIT:.0f} s; "
            "is it the port of `ray start --head`?"
        ) from None
    if tried.returncode:
        raise RunError(f"{name}: {explain(tried.stderr, is_named=address != 'auto')}")


def explain(text: str, *, is_named: bool) -> str:
    """Why a connection has failed, from what Ray has printed, and what to do, on one line.

    Ray finds and sends this user's token by itself, but not to an address that is named.
    """
    text = re.sub(r"\[[^\]\n]*\] \w+\.(cc|h):\d+: ", "", text)  # the stamp of a log line
    for pattern, remedy in REMEDIES:
        if match := re.search(rf".*(?:{pattern})(?s:.*)", text):
            return f"no connection ({' '.join(match[0].split())[:REASON]}); {remedy}"
    return f"no Ray cluster there ({_first_line(text)}); run `ray start --head`{_token_hint() if is_named else ''}"


def _token_hint() -> str:
    """What to try if this user has a token."""
    if os.environ.get("RAY_AUTH_MODE") or not (Path.home() / ".ray" / "auth_token").exists():
        return ""
    return ", or set RAY_AUTH_MODE=token if it demands the token in ~/.ray/auth_token"


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:REASON]
