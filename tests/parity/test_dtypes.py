"""What is computed in fp32 and cast once, and the dtype that comes out."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.parity.compare import config, tensors
from tests.parity.families import Family
from tests.parity.oracle import Oracle
from tests.parity.recipes import Recipe, entry, recipe, slerp, weighted

pytestmark = pytest.mark.parity

Families = Callable[[str], Family]
METHODS = ("linear", "task_arithmetic", "ties")


def three(method: str, family: Family) -> Recipe:
    sparse = {"density": 0.5} if method == "ties" else {}
    entries = [entry(path, weight=0.4, **sparse) for path in family.experts]
    start = [entry(family.base, weight=0.1)] if method == "linear" else []
    return recipe(method, family.base, start + entries)


def disagreeing_share(ours: Path, theirs: Path) -> float:
    """The share of elements that are not bit-equal, over all tensors; checks names and dtypes on the way."""
    a, b = tensors(ours), tensors(theirs)
    assert {n: (t.dtype, t.shape) for n, t in a.items()} == {n: (t.dtype, t.shape) for n, t in b.items()}
    unequal = sum(int((a[name] != b[name]).sum()) for name in a)
    return unequal / sum(t.numel() for t in a.values())


@pytest.mark.parametrize("out_dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", METHODS)
def test_one_cast_at_the_write(
    method: str, out_dtype: str, family: Families, oracle: Oracle, ours: Callable[[Recipe], Path]
) -> None:
    """fp32 rounding moves a value across a rounding border of the short type only now and then."""
    merge = three(method, family("llama")) | {"dtype": "float32", "out_dtype": out_dtype}
    mine, theirs = ours(merge), oracle.merge(merge)
    assert {tensor.dtype for tensor in tensors(mine).values()} == {getattr(torch, out_dtype)}
    assert disagreeing_share(mine, theirs) < 2e-3
    assert config(mine)["dtype"] == config(theirs)["dtype"] == out_dtype


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_without_a_dtype_keeps_the_inputs(
    method: str, family: Families, check: Callable[[Recipe], None]
) -> None:
    merge = three(method, family("gpt2"))
    del merge["dtype"]
    check(merge)


def test_a_recipe_with_only_a_dtype_writes_it(family: Families, oracle: Oracle, ours: Callable[[Recipe], Path]) -> None:
    """mergekit then also computes in it, which we do not: equal to the short type's own rounding only."""
    merge = three("task_arithmetic", family("llama")) | {"dtype": "bfloat16"}
    mine, theirs = tensors(ours(merge)), tensors(oracle.merge(merge))
    assert {tensor.dtype for tensor in mine.values()} == {torch.bfloat16}
    for name, tensor in mine.items():
        gap = (tensor.float() - theirs[name].float()).abs().max()
        assert gap <= 2**-6 * theirs[name].float().abs().max(), name


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "slerp"])
def test_bfloat16_checkpoints_are_merged_in_float32(
    method: str, family: Families, check: Callable[[Recipe], None]
) -> None:
    members = family("llama-bf16")
    merge = slerp(members, members.far, 0.4) if method == "slerp" else weighted(method, members, 0.5, 0.3)
    if method == "linear":
        del merge["base_model"]
    check(merge)
