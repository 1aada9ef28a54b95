"""Fixtures of the parity tests; they skip unless EVOMERGE_MERGEKIT names a mergekit-yaml executable."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.parity.compare import RELATIVE, assert_equal
from tests.parity.families import Family, build
from tests.parity.oracle import Oracle

VARIABLE = "EVOMERGE_MERGEKIT"
Recipe = Mapping[str, Any]


@pytest.fixture(scope="session")
def mergekit() -> Path:
    value = os.environ.get(VARIABLE)
    if not value:
        pytest.skip(f"set {VARIABLE} to a mergekit-yaml executable in its own virtual environment")
    executable = Path(value)
    if not os.access(executable, os.X_OK):
        pytest.fail(f"{VARIABLE}={value} is not an executable file; give the path of mergekit-yaml")
    return executable


@pytest.fixture(scope="session")
def oracle(mergekit: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    process = Oracle(mergekit, tmp_path_factory.mktemp("mergekit"))
    yield process
    process.close()


@pytest.fixture(scope="session")
def family(mergekit: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """Builds the named family once per session."""
    torch.set_num_threads(1)
    built: dict[str, Family] = {}

    def get(name: str) -> Family:
        if name not in built:
            built[name] = build(name, tmp_path_factory.mktemp(name))
        return built[name]

    return get


@pytest.fixture
def ours(tmp_path: Path) -> Callable[[Recipe | str], Path]:
    """Merges with evomerge, in process, what `python -m evomerge merge` would merge."""
    from evomerge.export import merge_recipe

    count = iter(range(1000))

    def merge(recipe: Recipe | str) -> Path:
        number = next(count)
        file, out = tmp_path / f"recipe{number}.yaml", tmp_path / f"out{number}"
        text = recipe if isinstance(recipe, str) else yaml.safe_dump(dict(recipe), sort_keys=False)
        file.write_text(text, encoding="utf-8")
        merge_recipe(file, out)
        return out

    return merge


@pytest.fixture
def check(oracle: Oracle, ours: Callable[[Recipe | str], Path]) -> Callable[..., None]:
    """Merges one recipe with both programs and compares the folders."""

    def compare(recipe: Recipe | str, *flags: str, relative: float = RELATIVE) -> None:
        theirs = oracle.merge(recipe, *flags)
        assert_equal(ours(recipe), theirs, relative)

    return compare
