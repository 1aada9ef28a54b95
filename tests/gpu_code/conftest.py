"""Signatures of every method on a tiny family, each collected once; nothing here runs without Triton."""

import functools
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from evomerge import methods
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from tests.families import Folders, save_family, with_adapters
from tests.gpu_code.signatures import Signature, options, signatures
from tests.methods.recipes import count, recipe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# A process either compiles with Triton or interprets, which it decides when it imports Triton.
INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the tests that this process cannot run, because importing them would fail or mislead."""
    if collection_path.suffix != ".py":
        return None
    interprets = collection_path.name == "test_interpreted.py"
    return True if find_spec("triton") is None or interprets != INTERPRETS else None


@pytest.fixture(scope="session")
def of_method(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], list[Signature]]:
    """All forms in which a method writes a model of a dtype: its variants, full checkpoints and adapters."""

    @functools.cache
    def families(dtype: str) -> dict[bool, Folders]:
        full = save_family("llama", tmp_path_factory.mktemp(dtype), DTYPES[dtype])
        return {False: full, True: with_adapters("llama", full, tmp_path_factory.mktemp(f"{dtype}-adapters"))}

    @functools.cache
    def get(name: str, dtype: str) -> list[Signature]:
        found: dict[Signature, None] = {}
        for adapters, folders in families(dtype).items():
            if not adapters and methods.adapters_only(methods.load(name)):
                continue
            for chosen in options(name):
                merged = recipe(name, folders.base, folders.experts[: count(name)], options=chosen)
                materializer = Materializer(Family(folders.base, folders.experts))
                found |= dict.fromkeys(signatures(materializer, merged, DTYPES[dtype]))
        return list(found)

    return get
