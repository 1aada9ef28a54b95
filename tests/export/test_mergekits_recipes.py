"""Published recipes of mergekit's, with keys that its methods do not read: what mergekit 0.1.5 made of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from evomerge.export import merge_recipe
from tests.families import Folders, save_family, save_tokenizer

WORDS = [*(f"w{n}" for n in range(35)), "<unk>", "</s>"]
Document = dict[str, Any]


def of(folders: Folders, method: str, *parameters: Document, base: bool = True, **keys: Any) -> Document:
    models = [{"model": ref.path, "parameters": own} for ref, own in zip(folders.experts, parameters, strict=False)]
    head = {"base_model": folders.base.path} if base else {}
    return {"merge_method": method, **head, "models": models, "dtype": "float32", **keys}


# The merged tensors' products with two fixed directions, and the key of which a line must tell.
MADE: dict[str, tuple[Callable[[Folders], Document], str | None, tuple[float, float]]] = {
    "nuslerp": (
        lambda f: of(f, "nuslerp", {"weight": 0.4}, {"weight": 0.5}, parameters={"lambda": 0.5}),
        "lambda",
        (18.5496, -32.0571),
    ),
    "model_stock": (
        lambda f: of(f, "model_stock", {}, {}, parameters={"int8_mask": True, "lambda": 0.5}),
        "lambda",
        (29.682, -29.6257),
    ),
    "ties": (
        lambda f: of(f, "ties", {"weight": 0.4, "density": 0.5, "normalize": False}, {"weight": 0.7, "density": 0.6}),
        "normalize",
        (14.3313, -31.6459),
    ),
    "linear": (
        lambda f: of(f, "linear", {"weight": 0.4, "density": 0.5}, {"weight": 0.8, "density": 0.5}, base=False),
        "density",
        (22.6794, -32.9321),
    ),
    "union": (
        lambda f: of(f, "task_arithmetic", {"weight": 0.4}, {"weight": 0.5}, tokenizer_source="union"),
        None,
        (22.5566, -31.2987),
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made = save_family("llama", tmp_path_factory.mktemp("models"), experts=3)
    for ref in (made.base, *made.experts):
        save_tokenizer(WORDS, Path(ref.path))
    return Folders(made.base, made.experts[1:])  # the first is the base's equal


@pytest.mark.parametrize("name", MADE)
def test_it_is_made_alike(name: str, folders: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    document, key, products = MADE[name]
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(document(folders)))
    merge_recipe(tmp_path / "theirs.yaml", tmp_path / "out")
    assert directions(tmp_path / "out") == pytest.approx(products, abs=1e-3)
    assert any(f"{key} has no effect" in line for line in caplog.messages) if key else not caplog.messages


def directions(folder: Path) -> list[float]:
    """Products of all tensors, put end to end, with two fixed directions."""
    tensors = load_file(folder / "model.safetensors")
    whole = torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])
    draw = torch.Generator().manual_seed(7)
    return [float(torch.randn(len(whole), generator=draw, dtype=torch.float64) @ whole) for _ in range(2)]
