"""Makes a quantised checkpoint of a plain one."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

BLOCK = 4


def quantise(folder: Path, dtype: str = "bfloat16") -> dict[str, Tensor]:
    """Store the matrices of a folder as FP8 with scales by block; returns what they are when dequantised."""
    plain, stored, right = load_file(folder / "model.safetensors"), {}, {}
    for name, tensor in plain.items():
        stored[name] = right[name] = tensor
        if tensor.dim() == 2 and "layers" in name:
            rows, columns = tensor.shape
            grid = (-(-rows // BLOCK), -(-columns // BLOCK))
            scales = torch.rand(grid, generator=torch.Generator().manual_seed(len(stored))) * 0.01 + 0.001
            wide = scales.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
            stored[name] = (tensor / wide).clamp(-448, 448).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scales
            right[name] = (stored[name].float() * wide).to(getattr(torch, dtype))
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    settings = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}
    (folder / "config.json").write_text(json.dumps({**config, "dtype": dtype, "quantization_config": settings}))
    return right
