"""Run by mergekit's interpreter: merges tensors that are already loaded, and measures only mergekit's own call.

A request is one JSON line (method, dtype, parameters, files with the base first, adapter folders); the answer is one
line with the seconds, or an error. Adapters are made dense before the clock starts, tensor by tensor.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from mergekit.merge_methods import merge_tensors
from safetensors import safe_open

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Loaded:
    """The files of the last request, kept open: their pages stay mapped from one repeat to the next."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._tensors: list[dict[str, torch.Tensor]] = []

    def tensors(self, paths: list[str]) -> list[dict[str, torch.Tensor]]:
        """Name → tensor for each file."""
        if paths != self._paths:
            self._paths, self._tensors = paths, [read(path) for path in paths]
        return self._tensors


def read(path: str) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def adapter(folder: str) -> tuple[dict[str, torch.Tensor], float]:
    config = json.loads((Path(folder) / "adapter_config.json").read_text())
    return read(str(Path(folder) / "adapter_model.safetensors")), config["lora_alpha"] / config["r"]


def dense(base: torch.Tensor, name: str, held: dict[str, torch.Tensor], scale: float) -> torch.Tensor:
    stem = f"base_model.model.{name.removesuffix('.weight')}"
    if f"{stem}.lora_A.weight" not in held:
        return base
    up, down = held[f"{stem}.lora_B.weight"], held[f"{stem}.lora_A.weight"]
    return torch.addmm(base.float(), up.float(), down.float(), alpha=scale).to(base.dtype)


@torch.no_grad()
def merge(request: dict[str, Any], loaded: Loaded) -> float:
    base, *experts = loaded.tensors(request["files"])
    adapters = [adapter(folder) for folder in request["adapters"]]
    seconds = 0.0
    for name, tensor in base.items():
        inputs = [tensor, *(expert[name] for expert in experts), *(dense(tensor, name, *held) for held in adapters)]
        start = perf_counter()
        merge_tensors(
            inputs,
            request["method"],
            parameters=request["parameters"],
            base_index=0,
            dtype=DTYPES[request["dtype"]],
            out_dtype=tensor.dtype,
        )
        seconds += perf_counter() - start
    return seconds


def answer(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    answer({"version": version("mergekit")})
    loaded = Loaded()
    for line in sys.stdin:
        try:
            answer({"seconds": merge(json.loads(line), loaded)})
        except Exception as error:  # whatever mergekit raises is the reason that a row states
            answer({"error": f"{type(error).__name__}: {error}"})
