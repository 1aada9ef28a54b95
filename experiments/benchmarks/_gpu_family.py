"""Families with random weights, a recipe of any merge method, and the memory of a device, for gpu.py."""

import copy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from _families import SIZES, Members, build
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel

from evomerge import methods
from evomerge.recipes.recipe import Recipe, Source, recipe_of_models

HAS_PEFT = find_spec("peft") is not None  # adapters are read by it
ADAPTERS = 2 if HAS_PEFT else 0
WEIGHTS = (0.7, 0.4, 0.2)
TINY = "100K"  # the size of the checks, and of all models where a run only shows that it works
DTYPE = torch.bfloat16  # of the models whose speed is measured


@dataclass(frozen=True)
class Setting:
    """The device, the folder for files, and whether tiny models stand for the large ones."""

    device: str
    folder: Path
    small: bool = False

    def size(self, name: str) -> str:
        """The size that is measured under this name."""
        return TINY if self.small else name

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a card."""
        return torch.device(self.device).type == "cuda"


def tiny_members(folder: Path) -> Members:
    """A family of 100K parameters in files, and its live model on the CPU."""
    return build(TINY, len(WEIGHTS), ADAPTERS, folder, "cpu")


def mergeable(members: Members) -> list[str]:
    """The merge methods that have experts in this family: without adapters, those that take full checkpoints."""
    return [name for name in methods.names() if members.adapters or not methods.adapters_only(methods.load(name))]


def recipe_of(name: str, members: Members) -> Recipe:
    """A recipe of the method: three experts, or as many as it takes, every gene at its default."""
    method = methods.load(name)
    genes = {gene.name: gene.default for gene in method.GENES}
    own = {key: genes.get(key, value) for key, value in method.PER_EXPERT.items() if key in genes}
    shared = {key: genes[key] for key in method.SHARED if key in genes}
    refs = members.adapters if methods.adapters_only(method) else members.experts[: method.EXPERTS[1]]
    weights = [{"weight": weight} if "weight" in method.PER_EXPERT else {} for weight in WEIGHTS]
    sources = tuple(Source(ref, {**own, **weight}) for ref, weight in zip(refs, weights, strict=False))
    options = methods.choose_options(name, {})
    return recipe_of_models(name, members.base, sources, shared, seed=3, options=options, out_dtype="bfloat16")


def on(device: str, model: nn.Module) -> nn.Module:
    """A copy of a live model on the device."""
    return copy.deepcopy(model).to(device)


def random_model(size: str, dtype: torch.dtype, device: str, std: float = 0.02) -> PreTrainedModel:
    """A llama of this size with random weights, the same ones on each device if it is small."""
    architecture = SIZES[size]
    config = architecture.config()
    config.dtype, config.initializer_range = dtype, std
    torch.manual_seed(0)
    place = "cpu" if architecture.layers < 8 else device
    with torch.device(place):
        model = LlamaForCausalLM(config)
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)


def at_layer(members: Members, kind: str) -> str:
    """The name of a tensor of the last layer."""
    return next(name for name in reversed(list(members.shapes)) if kind in name)


def start_peak(device: str) -> None:
    """Forget the peak of memory so far."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: str) -> float | None:
    """The largest amount of allocated memory since `start_peak`, in GB; None on a CPU."""
    if torch.device(device).type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
