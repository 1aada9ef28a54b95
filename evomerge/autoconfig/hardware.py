"""What the machine has: the dtype that its processor is fast in, and a pool with a worker for each GPU."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from evomerge.environment import free_host_memory

FAST_FLAGS = ("avx512_bf16", "amx_bf16")  # without one of these, x86 processors score bfloat16 several times slower
SHARE = 0.6  # of the free memory that a model may take in float32


def choose_dtype(weights: int) -> tuple[str, str]:
    """The dtype of a live model of so many weights, and the reason for it."""
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported():
            return "bfloat16", "the GPU computes in it"
        return "float16", "the GPU has no bfloat16"
    if has_fast_bfloat16():
        return "bfloat16", "the processor computes in it"
    size = 4 * weights
    if size > SHARE * free_host_memory():
        return "bfloat16", f"{size / 1e9:.0f} GB in float32 do not fit into memory"
    return "float32", "the processor computes bfloat16 several times slower"


def has_fast_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16; False where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
    return any(flag in flags for flag in (*FAST_FLAGS, "bf16"))


def choose_pool() -> tuple[dict[str, Any], str]:
    """The settings of the pool and the reason for them."""
    gpus = torch.cuda.device_count()
    if gpus > 1 and find_spec("ray") is not None:
        return {"name": "ray", "workers": gpus, "num_gpus": 1}, f"a worker for each of {gpus} GPUs"
    return {"name": "local"}, "one GPU" if gpus else f"one worker with {torch.get_num_threads()} threads"
