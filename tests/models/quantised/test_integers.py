"""GPTQ, AWQ and compressed-tensors against a reader of single bits."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.models.quantised import awq, compressed_tensors, gptq, load_format
from evomerge.models.quantised._integers import unpack_words
from tests.models.quantised.stored import InMemory

AWQ_PLACES = (0, 2, 4, 6, 1, 3, 5, 7)  # which of eight neighbouring outputs each four bits of a word belong to


def packed_columns(codes: np.ndarray, bits: int) -> Tensor:
    """int32 words whose columns are the columns of `codes`, bit after bit."""
    stream = ((codes[:, None, :] >> np.arange(bits)[None, :, None]) & 1).reshape(-1, codes.shape[1])
    words = stream.reshape(-1, 32, codes.shape[1]).astype(np.uint64) << np.arange(32, dtype=np.uint64)[None, :, None]
    return torch.from_numpy(words.sum(axis=1).astype(np.uint32).view(np.int32))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_integers_are_read_bit_by_bit(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (64, 5))
    assert torch.equal(unpack_words(packed_columns(codes, bits), bits, 64), torch.from_numpy(codes).int())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("order", ["none", "plain", "by activation"])
def test_gptq_is_its_formula(bits: int, layout: str, order: str) -> None:
    """w = scale · (code − zero) by group, where the first layout stores zero − 1."""
    inputs, outputs, size = 64, 32, 16
    draw = np.random.default_rng(bits)
    codes = draw.integers(0, 2**bits, (inputs, outputs))
    zeros = draw.integers(1, 2**bits, (inputs // size, outputs))
    scales = draw.uniform(0.001, 0.02, zeros.shape).astype(np.float16)
    group = np.arange(inputs) // size
    if order == "by activation":
        draw.shuffle(group)
    tensors = {
        "a.qweight": packed_columns(codes, bits),
        "a.qzeros": packed_columns((zeros - (layout == "gptq")).T, bits).T.contiguous(),
        "a.scales": torch.from_numpy(scales),
    }
    if order != "none":
        tensors["a.g_idx"] = torch.from_numpy(group.astype(np.int32))
    found = gptq.packed({"bits": bits, "checkpoint_format": layout}, InMemory(tensors))["a.weight"]
    right = (scales[group].astype(np.float64) * (codes - zeros[group])).astype(np.float16).T
    assert found.shape == (outputs, inputs) and set(found.inputs) == set(tensors)
    assert torch.equal(found.unpack(), torch.from_numpy(right))


def test_awq_is_its_formula() -> None:
    inputs, outputs, size = 32, 16, 8
    draw = np.random.default_rng(1)
    codes = draw.integers(0, 16, (inputs, outputs))
    zeros = draw.integers(0, 16, (inputs // size, outputs))
    scales = draw.uniform(0.001, 0.02, zeros.shape).astype(np.float16)

    def words(values: np.ndarray) -> Tensor:
        placed = values.reshape(len(values), -1, 8)[..., AWQ_PLACES].reshape(len(values), -1)
        return packed_columns(placed.T, 4).T.contiguous()

    tensors = {"a.qweight": words(codes), "a.qzeros": words(zeros), "a.scales": torch.from_numpy(scales)}
    group = np.arange(inputs) // size
    right = (scales[group].astype(np.float64) * (codes - zeros[group])).astype(np.float16).T
    assert torch.equal(awq.packed({}, InMemory(tensors))["a.weight"].unpack(), torch.from_numpy(right))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_compressed_tensors_is_its_formula(bits: int, asymmetric: bool) -> None:
    """w = scale · (code − 2^(bits−1) − zero) by group of inputs, where codes are packed along the inputs."""
    outputs, inputs, size = 32, 64, 16
    draw = np.random.default_rng(bits)
    codes = draw.integers(0, 2**bits, (outputs, inputs))
    scales = torch.from_numpy(draw.uniform(0.001, 0.02, (outputs, inputs // size)).astype(np.float32)).bfloat16()
    zeros = draw.integers(0, 2**bits, scales.shape)
    half = 2 ** (bits - 1)
    tensors = {
        "a.weight_packed": packed_columns(codes.T, bits).T.contiguous(),
        "a.weight_scale": scales,
        "a.weight_shape": torch.tensor([outputs, inputs]),
    }
    if asymmetric:
        tensors["a.weight_zero_point"] = packed_columns(zeros, bits)
    group = np.arange(inputs) // size
    offset = (zeros[:, group] - half) if asymmetric else 0
    right = (scales.double()[:, group] * torch.from_numpy(codes - half - offset)).bfloat16()
    found = compressed_tensors.packed({}, InMemory(tensors))["a.weight"]
    assert set(found.inputs) == set(tensors) and torch.equal(found.unpack(), right)


@pytest.mark.parametrize(("module", "missing"), [(gptq, "scales"), (awq, "qzeros")])
def test_a_part_that_is_missing_is_named(module: Any, missing: str) -> None:
    parts = {f"a.{name}": torch.zeros(8, 8, dtype=torch.int32) for name in ("qweight", "qzeros", "scales")}
    del parts[f"a.{missing}"]
    with pytest.raises(ExpertError, match=rf"a\.qweight: a\.{missing} is not beside it"):
        module.packed({}, InMemory(parts))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"quant_method": "hqq"}, "quantised by hqq, which cannot be dequantised here"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "gptq in the layout marlin"),
        ({"quant_method": "awq", "version": "gemv"}, "awq gemv of 4 bits cannot be dequantised here"),
    ],
)
def test_a_variant_that_is_not_known_is_named(settings: dict[str, str], line: str) -> None:
    with pytest.raises(ExpertError, match=line):
        load_format(settings).packed(settings, InMemory({}))
