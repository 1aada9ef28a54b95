"""A worker on another machine refuses models that are not those of the search."""

import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from evomerge.errors import ExpertError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.dense_plan import DEQUANTISED_DTYPE
from evomerge.models.family import Family
from evomerge.recipes.recipe import ModelRef
from evomerge.version import __version__
from evomerge.workers.jobs import WorkerSpec
from evomerge.workers.model_config import ModelConfig
from evomerge.workers.node_check import refuse_other_models
from evomerge.workers.pools._ray_fleet import Actor
from tests.quantised_files import quantise
from tests.workers.test_worker import BASE, EXPERTS


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerSpec:
    """The quickstart's models, with copies of the experts that a test may change."""
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    experts = tuple(ModelRef(str(shutil.copytree(ref.path, tmp_path / Path(ref.path).name))) for ref in EXPERTS)
    made = WorkerSpec(BASE, experts, {}, ModelConfig(dtype="float32", device="cpu"))
    return replace(made, hashes=Family(BASE, experts).hashes())


def weights(spec: WorkerSpec) -> Path:
    return next(Path(spec.experts[0].path).glob("*.safetensors"))


def test_the_same_models_are_read_once(spec: WorkerSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_other_models(spec)
    monkeypatch.setattr(Family, "hashes", lambda self: pytest.fail("read again"))
    refuse_other_models(spec)


def test_a_model_that_differs_is_named(spec: WorkerSpec) -> None:
    refuse_other_models(spec)
    file = weights(spec)
    content, before = bytearray(file.read_bytes()), file.stat()
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    with pytest.raises(ExpertError, match="other weights here than where the search runs") as caught:
        refuse_other_models(spec)
    assert str(spec.experts[0]) in str(caught.value) and str(spec.experts[1]) not in str(caught.value)


def test_a_model_that_is_dequantised_to_another_dtype_is_named(
    spec: WorkerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantise(Path(spec.experts[0].path))
    spec = replace(spec, hashes=Family(BASE, spec.experts).hashes())
    refuse_other_models(spec)
    monkeypatch.setenv(DEQUANTISED_DTYPE, "float32")
    with pytest.raises(ExpertError, match="other weights here"):
        refuse_other_models(spec)


def test_without_a_cache_that_can_be_written_the_models_are_compared(
    spec: WorkerSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "file"))
    refuse_other_models(spec)
    monkeypatch.setattr(Checkpoint, "sha256", "0")
    with pytest.raises(ExpertError):
        refuse_other_models(spec)


def test_an_actor_compares_models_on_other_machines_only(spec: WorkerSpec) -> None:
    other = replace(spec, hashes={str(BASE): "0"})
    Actor().load(other, os.getcwd(), __version__, socket.gethostname())
    with pytest.raises(ExpertError, match="other weights here"):
        Actor().load(other, os.getcwd(), __version__, "elsewhere")


def test_an_actor_of_another_version_is_refused(spec: WorkerSpec) -> None:
    with pytest.raises(RuntimeError, match=f"evomerge {__version__} is installed there, and 0.0 where the search runs"):
        Actor().load(spec, os.getcwd(), "0.0", socket.gethostname())
