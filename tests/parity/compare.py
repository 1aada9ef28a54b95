"""Two checkpoint folders, tensor by tensor."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

RELATIVE = 1e-5
ABSOLUTE = 1e-6
Tensors = Mapping[str, torch.Tensor]
LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers")


@dataclass(frozen=True)
class Difference:
    """How far two tensors of one name are apart; `relative` is to the largest magnitude of theirs."""

    name: str
    absolute: float
    relative: float
    moved: int
    size: int

    def __str__(self) -> str:
        share = f"{self.moved}/{self.size} elements"
        return f"{self.name}: {self.absolute:.2e} ({self.relative:.1e} of max), {share}"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a single-file or sharded folder."""
    files = sorted(folder.glob("*.safetensors"))
    assert files, f"{folder} has no safetensors file"
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def config(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return loaded


def difference(name: str, ours: torch.Tensor, theirs: torch.Tensor, relative: float) -> Difference:
    a, b = ours.double(), theirs.double()
    gap = (a - b).abs()
    peak = max(b.abs().max().item(), 1e-30)
    bound = max(ABSOLUTE, relative * peak)
    # A NaN on one side only must count, a NaN on both sides is agreement.
    bad = (~(gap <= bound) & ~(a.isnan() & b.isnan()) & ~(a == b)).sum().item()
    worst = gap.nan_to_num(nan=0.0, posinf=0.0).max().item()
    return Difference(name, worst, worst / peak, int(bad), gap.numel())


def assert_equal(ours: Path, theirs: Path, relative: float = RELATIVE) -> None:
    """Equal layer counts, and tensors as `assert_same_tensors` has it."""
    assert_same_tensors(tensors(ours), tensors(theirs), relative)
    layers = {key: (config(ours).get(key), config(theirs).get(key)) for key in LAYER_KEYS}
    assert all(x == y for x, y in layers.values()), f"layer counts differ (ours, mergekit): {layers}"


def assert_same_tensors(ours: Tensors, theirs: Tensors, relative: float = RELATIVE) -> None:
    """Equal names, shapes, dtypes, and values to rounding; lists every tensor that is not."""
    extra, lost = sorted(ours.keys() - theirs), sorted(theirs.keys() - ours)
    assert not extra and not lost, f"only ours: {extra}; only mergekit: {lost}"
    kinds = {name: (kind(ours[name]), kind(theirs[name])) for name in sorted(ours)}
    unlike = {name: pair for name, pair in kinds.items() if pair[0] != pair[1]}
    assert not unlike, f"shapes or dtypes differ (ours, mergekit): {unlike}"
    found = [difference(name, ours[name], theirs[name], relative) for name in kinds]
    wrong = [str(d) for d in found if d.moved]
    assert not wrong, f"{len(wrong)} of {len(found)} tensors differ from mergekit's:\n" + "\n".join(wrong)


def kind(tensor: torch.Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    return tuple(tensor.shape), tensor.dtype
