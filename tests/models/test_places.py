"""Boxes of parameters: stacked, joined, split and transposed tensors, followed through operations on shapes."""

from dataclasses import replace

import pytest
import torch
from transformers.core_model_loading import Chunk, Concatenate, Interleave, MergeModulelist, Transpose

from evomerge.models.places import Destination, LiveTensor
from evomerge.models.traced import MismatchError, Traced


def followed(operation: object, shapes: dict[str, tuple[int, ...]], targets: list[str]) -> dict[str, Traced]:
    """The result of an operation of transformers on traced tensors, one for each name."""
    inputs = {name: [Traced.stored(name, shape)] for name, shape in shapes.items()}
    found: dict[str, Traced] = operation.convert(inputs, source_patterns=list(shapes), target_patterns=targets)  # type: ignore[attr-defined]
    return found


def filled(traced: Traced, stored: dict[str, torch.Tensor]) -> torch.Tensor:
    """A tensor that is written box by box."""
    out = torch.full(traced.shape, float("nan"))
    for name, block in traced.pieces:
        block.view(out).copy_(block.part(stored[name]))
    return out


def test_random_chains_place_every_element_where_torch_does() -> None:
    for seed in range(30):
        torch.manual_seed(seed)
        a, b, c = (torch.randn(4, 6) for _ in range(3))
        stored = {"a": a, "b": b, "c": c}

        def chain(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, seed: int = seed) -> torch.Tensor:
            joined = torch.cat([torch.stack([a, b], dim=seed % 3), torch.stack([c, a], dim=seed % 3)], dim=seed % 2)
            turned = torch.transpose(joined, dim0=seed % 3, dim1=(seed + 1) % 3)
            parts = torch.split(turned, [1, turned.shape[1] - 1], dim=1)
            return torch.chunk(parts[1], 2, dim=(seed + 2) % 3)[0].contiguous()

        traced = chain(*(Traced.stored(name, (4, 6)) for name in "abc"))  # type: ignore[arg-type]
        assert torch.equal(filled(traced, stored), chain(a, b, c))  # type: ignore[arg-type]


@pytest.mark.parametrize("operation", [Chunk(dim=0), Chunk(dim=1)])
def test_a_tensor_that_is_split_has_a_box_in_each_parameter(operation: Chunk) -> None:
    stored = torch.arange(24.0).view(4, 6)
    parts = followed(operation, {"qk": (4, 6)}, ["q", "k"])
    wanted = dict(zip("qk", stored.chunk(2, operation.dim), strict=True))
    for name, traced in parts.items():
        assert torch.equal(filled(traced, {"qk": stored}), wanted[name])
    blocks = tuple(replace(b, path=n) for n, t in parts.items() for _, b in t.pieces)
    place = Destination("q", blocks)
    live = {name: torch.zeros_like(part) for name, part in wanted.items()}
    tensor = LiveTensor(place, live)
    assert place.paths == ("q", "k") and place.shape == (4, 6) == tensor.shape and tensor.direct is None
    tensor.copy_(stored)
    assert all(torch.equal(live[name], wanted[name]) for name in live)
    assert torch.equal(tensor.tensor(), stored)
    assert torch.equal(place.gradient("q", live["q"]) + place.gradient("k", live["k"]), stored)


def test_a_stack_of_transposed_matrices() -> None:
    merged = followed(MergeModulelist(dim=0), {"w.*": (2, 3)}, ["w"])
    turned = Transpose(1, 2).convert({"w": [merged["w"]]}, source_patterns=["w"], target_patterns=["w"])["w"]
    ((_, block),) = turned.pieces
    parameter = torch.zeros(turned.shape)
    live = LiveTensor(Destination("w", (replace(block, path="w"),)), {"w": parameter})
    live.copy_(torch.arange(6.0).view(2, 3))
    assert live.direct is None and torch.equal(parameter[0], torch.arange(6.0).view(2, 3).T)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(MismatchError, match=r"shapes \[2, 0\] and \[3, 0\]"):
        followed(Concatenate(dim=1), {"a": (2, 3), "b": (3, 3)}, ["ab"])
    with pytest.raises(MismatchError):
        torch.split(Traced.stored("a", (4, 2)), [1, 2], dim=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_rows_that_are_interleaved(dim: int) -> None:
    stored = torch.randn(4, 6, 8)
    operation = Interleave(dim=dim)
    (wanted,) = operation.convert({"a": stored}, ["a"], ["a"]).values()
    (traced,) = followed(operation, {"a": (4, 6, 8)}, ["a"]).values()
    assert torch.equal(filled(traced, {"a": stored}), wanted)
    live = torch.zeros_like(wanted)
    place = Destination("w", tuple(replace(block, path="w") for _, block in traced.pieces))
    tensor = LiveTensor(place, {"w": live})
    tensor.copy_(stored)
    assert place.shape == stored.shape and torch.equal(live, wanted) and torch.equal(tensor.tensor(), stored)


def test_operations_that_are_no_boxes_are_unknown() -> None:
    with pytest.raises(NotImplementedError):
        Traced.stored("a", (4, 6)).reshape(6, 4)
    with pytest.raises(NotImplementedError):
        torch.add(Traced.stored("a", (4, 2)), 1)  # type: ignore[call-overload]
