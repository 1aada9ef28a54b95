"""The other direction: what a search freezes, mergekit builds unchanged and equal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.export import export_recipe
from evomerge.recipes import dump_recipe
from tests.parity.compare import assert_equal
from tests.parity.families import Family
from tests.parity.lora import CONV1D, SHAPES, save_adapter
from tests.parity.oracle import Oracle
from tests.parity.spaces import decoded, opened

pytestmark = pytest.mark.parity

Families = Callable[[str], Family]
Ours = Callable[[str], Path]
SCHEDULES: dict[str, Any] = {"all": "all", "blocks": {"blocks": 2}, "each": "each", "knots": {"knots": 2}}
COMPONENTS: dict[str, tuple[str, ...]] = {"whole": (), "parts": ("attention", "mlp")}
EXPERTS = {"linear": 3, "task_arithmetic": 3, "ties": 3, "slerp": 1}


@pytest.fixture
def frozen(oracle: Oracle, ours: Ours, tmp_path: Path) -> Callable[..., None]:
    """Decodes, freezes, and compares what was decoded and what was frozen with mergekit's merge of it."""

    def compare(base: str, experts: list[str], method: str, **options: Any) -> None:
        models = opened(base, experts)
        recipe = decoded(models, method, **options)
        text = dump_recipe(recipe)
        theirs = oracle.merge(text)
        export_recipe(recipe, models, tmp_path / "scored")
        assert_equal(tmp_path / "scored", theirs)
        assert_equal(ours(text), theirs)

    return compare


@pytest.mark.parametrize("architecture", ["llama-deep", "llama-tied", "gpt2", "t5"])
@pytest.mark.parametrize("components", COMPONENTS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("method", EXPERTS)
def test_decoded_recipes(
    method: str,
    schedule: str,
    components: str,
    architecture: str,
    family: Families,
    frozen: Callable[..., None],
) -> None:
    members = family(architecture)
    experts = [members.far] if method == "slerp" else list(members.experts)
    frozen(
        members.base,
        experts,
        method,
        schedule=SCHEDULES[schedule],
        components=COMPONENTS[components],
        outer="each" if schedule == "each" else "joint",
    )


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
def test_the_other_normalisation(method: str, family: Families, frozen: Callable[..., None]) -> None:
    members = family("llama-deep")
    settings = {"normalize": method == "task_arithmetic"}
    frozen(members.base, list(members.experts), method, schedule={"knots": 3}, settings=settings)


def test_slerp_between_two_experts(family: Families, frozen: Callable[..., None]) -> None:
    members = family("t5")
    frozen(members.base, list(members.experts[:2]), "slerp", schedule="each", components=("norms", "mlp"))


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_adapters_and_checkpoints_mixed(
    method: str, architecture: str, family: Families, tmp_path: Path, frozen: Callable[..., None]
) -> None:
    members = family(architecture)
    shapes = {"one": CONV1D} if architecture == "gpt2" else SHAPES
    adapters = [save_adapter(members.base, tmp_path / name, shape) for name, shape in shapes.items()]
    frozen(members.base, [*adapters, members.experts[0]], method, schedule="each", components=("mlp",))


def test_slerp_between_two_adapters(family: Families, tmp_path: Path, frozen: Callable[..., None]) -> None:
    members = family("llama")
    pair = [save_adapter(members.base, tmp_path / name, SHAPES[name]) for name in ("plain", "patterned")]
    frozen(members.base, pair, "slerp", schedule="each")


def test_a_cast_output(family: Families, oracle: Oracle, ours: Ours, tmp_path: Path) -> None:
    members = family("llama")
    models = opened(members.base, list(members.experts))
    text = dump_recipe(decoded(models, "ties", schedule="each", out_dtype="bfloat16"))
    # One step of the short type at the largest magnitude: the two programs may round apart, no more.
    assert_equal(ours(text), oracle.merge(text), relative=2**-8)
