"""What a search over many adapters costs beside its model: memory, and milliseconds per candidate.

Usage: python experiments/adapters/measure.py OUT [--candidates 30] [--threads 1] [--dtype bfloat16]
           [--compile auto] [--json FILE]

OUT is what make_adapters.py wrote. Every candidate has new weights for every adapter, so nothing is left alone. Two
processes are compared: one that holds the model only, and one that writes the candidates into it.

Memory is the kernel's: `anonymous` is the process's own and cannot be shared or dropped; `file` is pages of weight
files, which all workers of a machine share and the kernel may drop; `peak` is the highest sum of both.
`held` counts tensor storages instead: what the engine keeps between candidates, by kind.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from evomerge.environment import machine, versions
from evomerge.kernels.factors import Factors
from evomerge.merging import COMPILE, Materializer
from evomerge.models.family import Family
from evomerge.models.live_model import load_model
from evomerge.recipes.recipe import ModelRef, Recipe, Source, recipe_of_models

Numbers = dict[str, float]


def memory() -> Numbers:
    """Megabytes of this process: anonymous and file-backed now, and the highest sum so far."""
    fields = {"RssAnon": "anonymous", "RssFile": "file", "VmHWM": "peak"}
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {fields[line[0][:-1]]: int(line[1]) / 1024 for line in lines if line and line[0][:-1] in fields}


def opened(out: Path) -> Family:
    """Base and adapters of the experiment in `out`."""
    experiment = yaml.safe_load((out / "conf" / "experiment" / "adapters.yaml").read_text())
    base = experiment["base"]
    return Family(ModelRef(base), [ModelRef(base, adapter=path) for path in experiment["experts"].values()])


def candidates(family: Family, count: int) -> Iterator[Recipe]:
    """Task arithmetic with random weights, another one for every adapter of every candidate."""
    random = np.random.default_rng(0)
    for _ in range(count):
        weights = random.uniform(0.0, 0.3, len(family.experts)).round(6)
        sources = tuple(Source(ref, {"weight": float(w)}) for ref, w in zip(family.experts, weights, strict=True))
        yield recipe_of_models("task_arithmetic", family.ref, sources, {})


def held(materializer: Materializer, recipe: Recipe) -> dict[str, int]:
    """Bytes of the distinct storages behind a recipe's sources: the base's, the adapters', and anything else."""
    family, found = materializer.family, {"base": {}, "adapters": {}, "other": {}}
    for part in materializer.parts(recipe):
        sources = part.setup.sources
        sides = [s for i in range(len(sources)) if isinstance(u := sources.update(i), Factors) for s in (u.up, u.down)]
        adapters = {_address(side): side for side in sides}
        base = _address(family.base.tensor(part.name))
        for tensor in sources.tensors():
            address = _address(tensor)
            kind = "base" if address == base else "adapters" if address in adapters else "other"
            found[kind][address] = tensor.numel() * tensor.element_size()
    return {kind: sum(sizes.values()) for kind, sizes in found.items()}


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr()


def model_only(out: Path, dtype: str) -> Numbers:
    """The live model and nothing else; written once, since until then it is the file's pages."""
    model = load_model(Path(opened(out).ref.path), dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0)
    return memory()


def search(out: Path, dtype: str, count: int, compiler: str) -> dict[str, Any]:
    """The live model and `count` candidates written into it."""
    family = opened(out)
    model = load_model(Path(family.ref.path), dtype=dtype)
    materializer = Materializer(family, compiled=COMPILE[compiler])
    seconds = []
    for recipe in candidates(family, count):
        start = time.perf_counter()
        materializer.write(recipe, model)
        seconds.append(time.perf_counter() - start)
    later = [1000 * value for value in seconds[1:]]
    return {
        "memory": memory(),
        "held": held(materializer, recipe),
        "first_ms": 1000 * seconds[0],
        "ms": statistics.median(later),
        "spread_ms": [min(later), max(later)],
    }


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Both processes, one after the other, and what the files weigh."""
    family = opened(given.out)
    shapes = family.base.skeleton.parameters.values()
    fresh = multiprocessing.get_context("spawn")
    settings: dict[str, Any] = {"initializer": torch.set_num_threads, "initargs": (given.threads,)}
    with ProcessPoolExecutor(1, fresh, max_tasks_per_child=1, **settings) as pool:
        alone = pool.submit(model_only, given.out, given.dtype).result()
        ours = pool.submit(search, given.out, given.dtype, given.candidates, given.compile).result()
    files = [Path(str(ref.adapter)) / "adapter_model.safetensors" for ref in family.experts]
    return {
        "parameters": sum(torch.Size(shape).numel() for shape in shapes),
        "adapters": len(files),
        "adapter_bytes": sum(file.stat().st_size for file in files),
        "given": {key: str(value) for key, value in vars(given).items()},
        "model_only": alone,
        **ours,
        "machine": machine(),
        "versions": versions(),
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The result in a few lines."""
    given, alone, ours = found["given"], found["model_only"], found["memory"]
    low, high = found["spread_ms"]
    yield f"model      {found['parameters'] / 1e6:.1f}M parameters in {given['dtype']}, {given['threads']} thread(s)"
    yield f"adapters   {found['adapters']}, {found['adapter_bytes'] / 1e6:.1f} MB of files"
    yield "held       " + ", ".join(f"{kind} {size / 1e6:.1f} MB" for kind, size in found["held"].items())
    yield "beside it  " + ", ".join(f"{key} {ours[key] - alone[key]:+.0f} MiB" for key in alone)
    yield f"candidate  {found['ms']:.1f} ms ({low:.1f} to {high:.1f}), the first {found['first_ms']:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--candidates", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--compile", choices=COMPILE, default="auto")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.candidates < 2:
        raise SystemExit(f"--candidates {given.candidates}: give at least 2, the first one reads the files")
    found = measure(given)
    print("\n".join(lines(found)))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
