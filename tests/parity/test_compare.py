"""The comparison itself, which needs no mergekit: it must be able to say no."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.parity.compare import assert_equal

BASE = {"a.weight": torch.arange(1.0, 7.0).reshape(2, 3), "b.bias": torch.tensor([0.5, -2.0])}


def write(folder: Path, tensors: dict[str, torch.Tensor], layers: int = 2) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": layers}), encoding="utf-8")
    return folder


def changed(name: str, index: int, value: float) -> dict[str, torch.Tensor]:
    copy = {key: tensor.clone() for key, tensor in BASE.items()}
    copy[name].view(-1)[index] = value
    return copy


def test_rounding_is_equal(tmp_path: Path) -> None:
    assert_equal(write(tmp_path / "x", changed("a.weight", 0, 1.00005)), write(tmp_path / "y", BASE))


@pytest.mark.parametrize(
    ("other", "layers", "said"),
    [
        (changed("a.weight", 0, 1.0001), 2, "a.weight: 1.00e-04"),
        (changed("b.bias", 1, float("nan")), 2, "b.bias"),
        (BASE | {"c.weight": torch.zeros(1)}, 2, "only ours: ['c.weight']"),
        ({"a.weight": BASE["a.weight"]}, 2, "only mergekit: ['b.bias']"),
        (BASE | {"b.bias": BASE["b.bias"].half()}, 2, "float16"),
        (BASE | {"a.weight": torch.ones(3, 2)}, 2, "(3, 2)"),
        (BASE, 3, "layer counts differ"),
    ],
)
def test_every_other_difference_is_told(other: dict[str, torch.Tensor], layers: int, said: str, tmp_path: Path) -> None:
    ours, theirs = write(tmp_path / "ours", other, layers), write(tmp_path / "theirs", BASE)
    with pytest.raises(AssertionError) as caught:
        assert_equal(ours, theirs)
    assert said in str(caught.value)
