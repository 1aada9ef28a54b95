"""Families on disk for the method contract, each built once."""

from collections.abc import Callable

import pytest
import torch

from evomerge import methods
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from tests.families import Folders, save_family, with_adapters

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Folders]:
    """A family of full checkpoints, or of adapters where `method` takes nothing else."""
    built: dict[tuple[str, str, str | None, bool], Folders] = {}

    def get(
        kind: str = "llama", dtype: str = "float32", shard: str | None = None, method: str | None = None
    ) -> Folders:
        adapters = method is not None and methods.adapters_only(methods.load(method))
        key = (kind, dtype, shard, adapters)
        if key not in built and adapters:
            built[key] = with_adapters(kind, get(kind, dtype, shard), tmp_path_factory.mktemp(kind))
        elif key not in built:
            built[key] = save_family(kind, tmp_path_factory.mktemp(kind), DTYPES[dtype], shard=shard)
        return built[key]

    return get


@pytest.fixture
def open_family(folders: Callable[..., Folders]) -> Callable[..., tuple[Folders, Materializer]]:
    def get(*which: str, **more: str) -> tuple[Folders, Materializer]:
        found = folders(*which, **more)
        return found, Materializer(Family(found.base, found.experts))

    return get
