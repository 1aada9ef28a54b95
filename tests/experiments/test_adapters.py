"""Twenty adapters beside one model: what is held between candidates, counted by storage; never how fast anything is."""

import gc
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.merging.digests import fingerprint
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from evomerge.models.live_model import load_model
from tests.conftest import QUICKSTART, evomerge

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "adapters"
BASE = QUICKSTART / "family" / "base"
COUNT = 20
pytestmark = pytest.mark.slow


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / name), run_name=name.removesuffix(".py"))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    script("make_adapters.py")["make"](folder, BASE, COUNT)
    return folder


def sizes(path: Path) -> dict[str, int]:
    """Bytes of every tensor of a file."""
    return {name: tensor.numel() * tensor.element_size() for name, tensor in load_file(path).items()}


def adapter_bytes(out: Path) -> int:
    files = sorted(out.glob("adapters/*/adapter_model.safetensors"))
    assert len(files) == COUNT
    return sum(sum(sizes(file).values()) for file in files)


def test_adapters_are_plausible(out: Path) -> None:
    """Rank 8 and 16 in turn, every linear layer, each moved by 2 % of its norm."""
    family: Family = script("measure.py")["opened"](out)
    for ref in family.experts:
        assert len(family.touched(ref)) == 28
        for name in family.touched(ref):
            update, weight = family.update(ref, name), family.base.checkpoint.tensor(name).float()
            assert not isinstance(update, Tensor) and update is not None
            assert update.up.shape[1] in (8, 16)
            assert float(update.delta().norm() / weight.norm()) == pytest.approx(0.02, rel=0.02)


def test_what_is_held_is_the_files_once(out: Path) -> None:
    measure = script("measure.py")
    found = measure["search"](out, "float32", 3, "never")
    base = 2 * sum(p.numel() for p in load_model(BASE, dtype="float32").parameters())  # bfloat16, the tied head once
    assert found["held"] == {"base": base, "adapters": adapter_bytes(out), "other": 0}
    assert adapter_bytes(out) < COUNT * base / 4, "the point of adapters"


def test_nothing_dense_is_left_behind(out: Path) -> None:
    """After a few candidates, no tensor of a weight's size lives beside the model and the files."""
    measure = script("measure.py")
    family: Family = measure["opened"](out)
    model = load_model(BASE, dtype="float32")
    materializer = Materializer(family)
    smallest = min(p.numel() for p in model.parameters() if p.ndim == 2)
    shapes = {tuple(p.shape) for p in model.parameters() if p.ndim == 2}

    def dense() -> set[int]:
        """Where tensors with the shape of a weight are, by address."""
        gc.collect()
        tensors = [found for found in gc.get_objects() if type(found) in (Tensor, torch.nn.Parameter)]
        return {t.data_ptr() for t in tensors if tuple(t.shape) in shapes and t.numel() >= smallest}

    before = dense()
    recipe = None
    for recipe in measure["candidates"](family, 3):
        materializer.write(recipe, model)
    assert recipe is not None
    kept = {part.setup.sources.base.data_ptr() for part in materializer.tensor_merges(recipe)}
    assert dense() - before <= kept
    assert len(list(materializer.tensors(recipe))) == len(kept)
    assert fingerprint(model.named_parameters()) == fingerprint(materializer.tensors(recipe))


def test_more_candidates_and_more_recipes_hold_nothing_more(out: Path) -> None:
    measure = script("measure.py")
    family: Family = measure["opened"](out)
    materializer, counts = Materializer(family), []
    for recipe in measure["candidates"](family, 4):
        list(materializer.tensors(recipe))
        counts.append(measure["held"](materializer, recipe))
    assert counts == [counts[0]] * 4


def test_the_search_is_described_without_reading_a_weight(out: Path) -> None:
    said = evomerge("check", "+experiment=adapters", cwd=out)
    assert said.code == 0, said
    assert "a19: " in said.out and "20 dimensions: weight.a00" in said.out and "placement mmap: " in said.out


def test_the_commands_run(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    commands = [
        ["make_adapters.py", str(tmp_path), "--base", str(BASE), "--adapters", "3"],
        ["measure.py", str(tmp_path), "--candidates", "2", "--json", str(tmp_path / "found.json")],
    ]
    for name, *arguments in commands:
        command = [sys.executable, str(FOLDER / name), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["adapters"] == 3 and found["held"]["other"] == 0 and found["ms"] > 0
    assert found["memory"]["peak"] >= found["memory"]["anonymous"] > 0
    again = subprocess.run(
        [sys.executable, str(FOLDER / "make_adapters.py"), str(tmp_path)], capture_output=True, env=environment
    )
    assert again.returncode == 1 and b"is there already" in again.stderr


def test_the_random_base_can_be_searched(tmp_path: Path) -> None:
    script("make_adapters.py")["make"](tmp_path, None, 2)
    model = load_model(tmp_path / "base", dtype="bfloat16")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(32.1e6, rel=0.01)
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert evomerge("check", "+experiment=adapters", cwd=tmp_path).code == 0
