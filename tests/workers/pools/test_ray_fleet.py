"""The options with which a fleet starts actors, by a stand-in for Ray."""

from types import SimpleNamespace
from typing import Any

import pytest

from evomerge.models import DEQUANTISED_DTYPE
from evomerge.workers.jobs import WorkerSpec
from evomerge.workers.model_config import ModelConfig
from evomerge.workers.pools._ray_fleet import RayFleet
from evomerge.workers.pools._resources import Claim
from tests.workers.test_worker import BASE


def test_actors_get_the_variables_that_decide_about_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}

    def remote(**options: Any) -> Any:
        found.clear()
        found.update(options["runtime_env"].pop("env_vars"), **options["runtime_env"])
        return lambda actor: actor

    ray: Any = SimpleNamespace(
        remote=remote,
        put=lambda value: value,
        get_runtime_context=SimpleNamespace,
    )
    spec = WorkerSpec(BASE, (), {}, ModelConfig())
    monkeypatch.setenv(DEQUANTISED_DTYPE, "float32")
    monkeypatch.delenv("EVOMERGE_CACHE", raising=False)
    RayFleet(ray, spec, Claim(1, 0), 3)
    assert found == {"OMP_NUM_THREADS": "3", DEQUANTISED_DTYPE: "float32"}
    monkeypatch.setenv("EVOMERGE_CACHE", "/elsewhere")
    RayFleet(ray, spec, Claim(1, 0), 3)
    assert found["EVOMERGE_CACHE"] == "/elsewhere" and "py_executable" not in found
    RayFleet(ray, spec, Claim(1, 0), 3, "/my env/bin/python")
    assert found["py_executable"] == "'/my env/bin/python'"
