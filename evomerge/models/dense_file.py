"""Writes a safetensors file one tensor at a time, so that memory holds one tensor and not the model."""

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.models.dense_plan import DenseTensor

ALIGNMENT = 8
LENGTH_BYTES = 8


def write_dense_file(path: Path, tensors: Mapping[str, DenseTensor]) -> None:
    """Write the tensors in their order, synced to disk. The format: https://huggingface.co/docs/safetensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [end, end := end + tensor.nbytes],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        for name, tensor in tensors.items():
            data = _bytes(tensor.read())
            if len(data) != tensor.nbytes:
                raise ValueError(f"{name}: {len(data)} bytes, not {tensor.nbytes} of {prod(tensor.shape)} values")
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _bytes(tensor: Tensor) -> memoryview:
    data: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(data)
