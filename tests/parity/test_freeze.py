"""What a frozen-linear method leaves behind is plain weights, and mergekit builds the same model from them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge import methods
from evomerge.export import export_recipe
from evomerge.merging.frozen import freeze
from evomerge.merging.materializer import Materializer
from evomerge.recipes import dump_recipe
from tests.parity.compare import assert_equal
from tests.parity.families import Family
from tests.parity.lora import SHAPES, save_adapter
from tests.parity.oracle import FLAGS, Oracle, run_command
from tests.parity.spaces import decoded, opened

pytestmark = pytest.mark.parity

Families = Callable[[str], Family]
Ours = Callable[[str], Path]
FROZEN = [name for name in methods.names() if methods.load(name).EXACTNESS == "frozen-linear"]
SCHEDULES: dict[str, Any] = {"all": "all", "each": "each", "knots": {"knots": 2}}


@pytest.fixture
def rebuilt(oracle: Oracle, ours: Ours, tmp_path: Path) -> Callable[..., None]:
    """Compares the native merge with mergekit's and ours of the frozen recipe."""

    def compare(base: str, experts: list[str], method: str, relative: float = 1e-5, **options: Any) -> None:
        models = opened(base, experts[: methods.load(method).EXPERTS[1]])
        native = decoded(models, method, **options)
        export_recipe(native, models, tmp_path / "native")
        text = dump_recipe(freeze(native, Materializer(models)))
        assert yaml.safe_load(text)["merge_method"] in ("task_arithmetic", "linear")
        assert_equal(tmp_path / "native", oracle.merge(text), relative)
        assert_equal(ours(text), tmp_path / "native", relative=0)
        # The folder of a merge holds the recipe that mergekit reads, too.
        assert yaml.safe_load((tmp_path / "native" / "recipe.yaml").read_text()) == yaml.safe_load(text)

    return compare


@pytest.mark.parametrize("architecture", ["llama-deep", "llama-tied", "gpt2", "t5"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("method", FROZEN)
def test_mergekit_rebuilds_it(
    method: str, schedule: str, architecture: str, family: Families, rebuilt: Callable[..., None]
) -> None:
    members = family(architecture)
    rebuilt(members.base, list(members.experts), method, schedule=SCHEDULES[schedule], components=("attention",))


@pytest.mark.parametrize("method", FROZEN)
def test_checkpoints_in_bfloat16(method: str, family: Families, rebuilt: Callable[..., None]) -> None:
    """One step of the short type at the largest magnitude: the two programs may round apart, no more."""
    members = family("llama-bf16")
    rebuilt(members.base, list(members.experts), method, relative=2**-8, out_dtype="bfloat16")


@pytest.mark.parametrize("method", FROZEN)
def test_adapters(method: str, family: Families, tmp_path: Path, rebuilt: Callable[..., None]) -> None:
    members = family("llama")
    adapters = [save_adapter(members.base, tmp_path / name, shape) for name, shape in SHAPES.items()]
    rebuilt(members.base, adapters, method, schedule="each")


def test_the_command_reads_a_recipe_that_merge_wrote(
    mergekit: Path, family: Families, ours: Ours, tmp_path: Path
) -> None:
    """mergekit-yaml itself, on the file in the folder, with the notes that a recipe carries."""
    members = family("llama-tied")
    models = opened(members.base, list(members.experts))
    native = decoded(models, "geometric_median", schedule="each").with_notes({"label": "7/3", "scores": {"search": 1}})
    folder = ours(dump_recipe(native))
    command = run_command([str(mergekit), str(folder / "recipe.yaml"), str(tmp_path / "theirs"), *FLAGS])
    assert command.returncode == 0, command.stderr
    assert_equal(folder, tmp_path / "theirs")
