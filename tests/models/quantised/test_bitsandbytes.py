"""bitsandbytes' files against a loop over single values."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.models.quantised import bitsandbytes
from tests.models.quantised.stored import InMemory

SHAPE, BLOCK, NESTED_BLOCK, OFFSET = (9, 14), 16, 4, 0.25


def files(nested: bool) -> dict[str, Tensor]:
    draw = np.random.default_rng(3)
    blocks = -(-math.prod(SHAPE) // BLOCK)
    about = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": "float32", "shape": SHAPE}
    tensors = {
        "a.weight": torch.from_numpy(draw.integers(0, 256, (math.prod(SHAPE) // 2, 1)).astype(np.uint8)),
        "a.weight.absmax": torch.from_numpy(draw.uniform(0.1, 1, blocks).astype(np.float32)),
        "a.weight.quant_map": torch.from_numpy(np.sort(draw.uniform(-1, 1, 16)).astype(np.float32)),
    }
    if nested:
        about |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": OFFSET}
        tensors["a.weight.absmax"] = torch.from_numpy(draw.integers(0, 256, blocks).astype(np.uint8))
        tensors["a.weight.nested_absmax"] = torch.from_numpy(draw.uniform(0.1, 1, 2).astype(np.float32))
        tensors["a.weight.nested_quant_map"] = torch.from_numpy(np.linspace(-1, 1, 256).astype(np.float32))
    state = torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)
    return {**tensors, "a.weight.quant_state.bitsandbytes__nf4": state}


def by_hand(tensors: dict[str, Tensor], nested: bool) -> Tensor:
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    values = []
    for place in range(math.prod(SHAPE)):
        byte = int(arrays["a.weight"][place // 2, 0])
        code = byte // 16 if place % 2 == 0 else byte % 16
        scale = arrays["a.weight.absmax"][place // BLOCK]
        if nested:
            outer = arrays["a.weight.nested_absmax"][place // BLOCK // NESTED_BLOCK]
            scale = arrays["a.weight.nested_quant_map"][scale] * outer + np.float32(OFFSET)
        values.append(arrays["a.weight.quant_map"][code] * scale)
    return torch.tensor(np.array(values, np.float32)).reshape(SHAPE)


@pytest.mark.parametrize("nested", [False, True])
def test_four_bits(nested: bool) -> None:
    tensors = files(nested)
    found = bitsandbytes.packed({}, InMemory(tensors))["a.weight"]
    assert found.shape == SHAPE and set(found.inputs) == set(tensors)
    assert torch.equal(found.unpack(), by_hand(tensors, nested))


def test_eight_bits() -> None:
    codes = torch.arange(-6, 6, dtype=torch.int8).reshape(3, 4)
    tensors = {"a.weight": codes, "a.SCB": torch.tensor([127.0, 254.0, 12.7])}
    right = torch.tensor([[-6.0, -5, -4, -3], [-4, -2, 0, 2], [0.2, 0.3, 0.4, 0.5]])
    torch.testing.assert_close(bitsandbytes.packed({}, InMemory(tensors))["a.weight"].unpack(), right)


def test_a_state_that_is_damaged_is_named() -> None:
    tensors = files(False) | {"a.weight.quant_state.bitsandbytes__nf4": torch.zeros(3, dtype=torch.uint8)}
    with pytest.raises(ExpertError, match=r"a\.weight\.quant_state\.bitsandbytes__nf4: not a state"):
        bitsandbytes.packed({}, InMemory(tensors))
