"""Families on disk for the method contract, each built once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from evomerge.family import Family
from evomerge.materialize import Materializer
from tests.families import Folders, save_family

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Folders]:
    built: dict[tuple[str, str, str | None], Folders] = {}

    def get(kind: str = "llama", dtype: str = "float32", shard: str | None = None) -> Folders:
        key = (kind, dtype, shard)
        if key not in built:
            built[key] = save_family(kind, Path(tmp_path_factory.mktemp(kind)), DTYPES[dtype], shard=shard)
        return built[key]

    return get


@pytest.fixture
def open_family(folders: Callable[..., Folders]) -> Callable[..., tuple[Folders, Materializer]]:
    def get(kind: str = "llama", dtype: str = "float32", shard: str | None = None) -> tuple[Folders, Materializer]:
        found = folders(kind, dtype, shard)
        return found, Materializer(Family(found.base, found.experts))

    return get
