"""LoRA experts written as base+adapter, which mergekit merges through peft."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parity.families import Family
from tests.parity.lora import CONV1D, RARE, SHAPES, save_adapter
from tests.parity.recipes import Recipe, entry, piece, recipe, sliced

pytestmark = pytest.mark.parity

Families = Callable[[str], Family]
Check = Callable[[Recipe], None]


def merges(members: Family, expert: str) -> dict[str, Recipe]:
    mixed = [entry(expert, weight=0.8), entry(members.experts[0], weight=0.4)]
    alone = [entry(expert, weight=[0.3, 1.2])]
    return {
        "linear": recipe("linear", None, mixed),
        "linear with a base": recipe("linear", members.base, [*mixed, entry(members.base, weight=0.3)]),
        "task_arithmetic": recipe("task_arithmetic", members.base, mixed, lambda_=0.9),
        "ties": recipe("ties", members.base, mixed, density=0.4),
        "alone": recipe("task_arithmetic", members.base, alone),
        "slerp": recipe("slerp", members.base, [entry(expert)], t=0.4),
        "slerp from the adapter": recipe("slerp", expert, [entry(members.far)], t=0.4),
        "on a base that is an adapter": recipe("task_arithmetic", expert, mixed[1:]),
        "on another base": recipe("task_arithmetic", members.experts[1], mixed),
    }


MERGES = list(merges(Family("", ("", ""), "", "", "", 0), ""))


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_adapters_of_llama(shape: str, merge: str, family: Families, tmp_path: Path, check: Check) -> None:
    members = family("llama")
    check(merges(members, save_adapter(members.base, tmp_path / "adapter", SHAPES[shape]))[merge])


@pytest.mark.parametrize("merge", ["linear with a base", "task_arithmetic", "ties"])
@pytest.mark.parametrize("shape", RARE)
def test_rarer_adapters(shape: str, merge: str, family: Families, tmp_path: Path, check: Check) -> None:
    members = family("llama")
    check(merges(members, save_adapter(members.base, tmp_path / "adapter", RARE[shape]))[merge])


def test_adapters_in_stacked_and_shifted_slices(family: Families, tmp_path: Path, check: Check) -> None:
    members = family("llama-deep")
    base, expert = members.base, save_adapter(members.base, tmp_path / "adapter", SHAPES["plain"])
    pair = (entry(base), entry(expert, weight=[0.4, 0.9]))
    check(sliced("task_arithmetic", base, [piece(0, 3, *pair), piece(1, 4, *pair)]))
    shifted = [entry(base) | {"layer_range": [0, 2]}, entry(expert, weight=0.7) | {"layer_range": [2, 4]}]
    check(sliced("task_arithmetic", base, [{"sources": shifted}]))


@pytest.mark.parametrize("merge", ["linear", "linear with a base", "task_arithmetic", "ties"])
def test_adapters_of_gpt2(merge: str, family: Families, tmp_path: Path, check: Check) -> None:
    members = family("gpt2")
    check(merges(members, save_adapter(members.base, tmp_path / "adapter", CONV1D))[merge])


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_adapters_of_different_rank(method: str, family: Families, tmp_path: Path, check: Check) -> None:
    members = family("llama-tied")
    experts = [save_adapter(members.base, tmp_path / name, shape) for name, shape in SHAPES.items()]
    sparse = {"density": 0.7} if method == "ties" else {}
    check(recipe(method, members.base, [entry(expert, weight=0.6) for expert in experts], **sparse))
