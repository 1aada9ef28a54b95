"""Checkpoints whose tensors are stored under other names or types than the base's."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from evomerge.recipes import dump_recipe
from tests.parity.compare import assert_same_tensors, tensors
from tests.parity.families import Family
from tests.parity.oracle import Oracle
from tests.parity.recipes import Recipe, entry, recipe
from tests.parity.spaces import decoded, opened

pytestmark = pytest.mark.parity

Families = Callable[[str], Family]
PREFIX = "transformer."
WEIGHT = [{"filter": "h.1.attn", "value": -0.2}, {"filter": "mlp", "value": [0.3, 0.9]}, {"value": 0.6}]


def headless(folder: str, copy: Path) -> str:
    """GPT-2 as its first checkpoints are stored: without the prefix of the model under the head."""
    shutil.copytree(folder, copy)
    stored = {name.removeprefix(PREFIX): tensor for name, tensor in tensors(Path(folder)).items()}
    save_file(stored, copy / "model.safetensors", metadata={"format": "pt"})
    return str(copy)


def assert_equal_but_for_the_prefix(ours: Path, theirs: Path) -> None:
    a, b = ({n.removeprefix(PREFIX): t for n, t in tensors(folder).items()} for folder in (ours, theirs))
    assert_same_tensors(a, b)


@pytest.mark.parametrize("prefixed", ["base", "expert", "neither"])
@pytest.mark.parametrize("name", ["transformer.h.1.attn.c_attn.weight", "h.1.attn.c_attn.weight"])
def test_gpt2_stored_without_its_prefix(
    name: str, prefixed: str, family: Families, oracle: Oracle, ours: Callable[[Recipe], Path], tmp_path: Path
) -> None:
    """mergekit's filters see the name with the prefix, whatever the files say."""
    members = family("gpt2")
    base = members.base if prefixed == "base" else headless(members.base, tmp_path / "base")
    first = members.experts[0]
    expert = first if prefixed == "expert" else headless(first, tmp_path / "expert")
    weight = [{"filter": name, "value": 0.1}, *WEIGHT]
    merge = recipe("task_arithmetic", base, [entry(expert, weight=weight)])
    assert_equal_but_for_the_prefix(ours(merge), oracle.merge(merge))


@pytest.mark.parametrize("method", ["linear", "ties", "slerp"])
def test_a_frozen_recipe_of_gpt2_without_its_prefix(
    method: str, family: Families, oracle: Oracle, ours: Callable[[str], Path], tmp_path: Path
) -> None:
    members = family("gpt2")
    experts = [members.far] if method == "slerp" else list(members.experts)
    models = opened(headless(members.base, tmp_path / "base"), experts)
    parts = ("attention", "mlp")
    text = dump_recipe(decoded(models, method, schedule="each", components=parts, outer="each"))
    assert_equal_but_for_the_prefix(ours(text), oracle.merge(text))


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_models_of_different_types(
    dtype: str | None, family: Families, oracle: Oracle, ours: Callable[[Recipe], Path]
) -> None:
    """Without a dtype the widest of the inputs comes out."""
    short, full = family("llama-bf16"), family("llama")
    merge = recipe("task_arithmetic", short.base, [entry(full.experts[0], weight=0.4)])
    merge["dtype"] = dtype
    assert_same_tensors(tensors(ours(merge)), tensors(oracle.merge(merge)))
