"""Synthetic llama-shaped families in bf16: a base, experts a little away from it, LoRA adapters. Nothing is trained.

On a CPU they are ordinary folders, read through the page cache. For an accelerator the weights are made on it: the
folders hold headers over sparse zeros, so that a family of 8B needs no disk and no transfer.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.models.checkpoint import Checkpoint
from evomerge.models.family import Family
from evomerge.models.full_expert import FullExpert
from evomerge.recipes.recipe import ModelRef

BLOCK = (1 << 22) + 3  # fp32 numbers; odd, so that rows of a matrix do not repeat
BASE_STD, EXPERT_STD = 0.02, 0.002
RANK, ALPHA = 16, 32
SCRATCH = 14 * 4  # bytes per element of the largest tensor that whole-tensor rivals hold at once, about
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """A llama's dimensions."""

    hidden: int
    layers: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool

    def config(self) -> LlamaConfig:
        """The configuration that transformers and mergekit read."""
        return LlamaConfig(
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            intermediate_size=self.inner,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied,
            dtype="bfloat16",
            architectures=["LlamaForCausalLM"],
        )


# From 135M on these are the dimensions of SmolLM2 (135M, 360M), TinyLlama (1B) and Llama 3 (3B, 8B).
SIZES = {
    "100K": Architecture(48, 3, 104, 4, 2, 515, True),
    "1M": Architecture(128, 4, 352, 4, 2, 4096, True),
    "10M": Architecture(288, 6, 768, 6, 6, 16000, True),
    "135M": Architecture(576, 30, 1536, 9, 3, 49152, True),
    "360M": Architecture(960, 32, 2560, 15, 5, 49152, True),
    "1B": Architecture(2048, 22, 5632, 32, 4, 32000, False),
    "3B": Architecture(3072, 28, 8192, 24, 8, 128256, True),
    "8B": Architecture(4096, 32, 14336, 32, 8, 128256, False),
}


@dataclass(frozen=True)
class Members:
    """One family ready to merge, and the model that candidates are written into."""

    size: str
    family: Family
    base: ModelRef
    experts: tuple[ModelRef, ...]
    adapters: tuple[ModelRef, ...]
    model: nn.Module
    shapes: Shapes

    @property
    def parameters(self) -> int:
        """Elements of the base."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def parameter_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The parameters by name, a tied head not among them; no memory is used."""
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in LlamaForCausalLM(architecture.config()).named_parameters()}


def lacking(size: str, experts: int, folder: Path, device: str) -> str | None:
    """Why this machine is too small for a family of this size, or None."""
    elements = [math.prod(shape) for shape in parameter_shapes(SIZES[size]).values()]
    family = 2 * sum(elements) * (1 + experts)
    needed = family + 2 * sum(elements) + SCRATCH * max(elements)
    if device == "cpu":
        memory, disk = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), shutil.disk_usage(folder).free
    else:
        memory, disk = torch.cuda.mem_get_info(device)[0], family
    for what, wanted, there in (("memory", needed, memory), ("disk space", family, disk)):
        if wanted > there:
            return f"{wanted / 1e9:.0f} GB of {what} needed, {there / 1e9:.0f} there"
    return None


def build(
    size: str, experts: int, adapters: int, folder: Path, device: str, *, resident: bool | None = None
) -> Members:
    """Write the family below `folder`, open it, and make its live model on the device.

    With `resident`, the default on an accelerator, the weights of base and experts are made on the device and are in no
    file.
    """
    resident = device != "cpu" if resident is None else resident
    architecture = SIZES[size]
    shapes = parameter_shapes(architecture)
    folders = [folder / name for name in ("base", *(f"e{i}" for i in range(experts)))]
    held = [_write_member(path, architecture, shapes, i, device, resident) for i, path in enumerate(folders)]
    base = ModelRef(str(folders[0]))
    full = tuple(ModelRef(str(path)) for path in folders[1:])
    lora = tuple(_write_adapter(folder / f"lora{i}", base, shapes, seed=100 + i) for i in range(adapters))
    family = Family(base, [*full, *lora])
    if resident:
        _make_resident(family, base, full, held)
    return Members(size, family, base, full, lora, _live_model(architecture, device), shapes)


def _live_model(architecture: Architecture, device: str) -> nn.Module:
    with torch.device("meta"):
        model = LlamaForCausalLM(architecture.config()).to(torch.bfloat16)
    model = model.to_empty(device=device).requires_grad_(False)
    model.tie_weights()
    return model


class _Noise:
    """Normal numbers, repeated from one block: fresh ones would cost more time than all that is measured."""

    def __init__(self, seed: int, std: float, device: str) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        self._block = torch.randn(BLOCK, generator=generator, device=device).mul_(std)
        self._at = 0

    def take(self, count: int) -> Tensor:
        """The next `count` numbers, fp32."""
        found, filled = torch.empty(count, device=self._block.device), 0
        while filled < count:
            part = self._block[self._at : self._at + count - filled]
            found[filled : filled + part.numel()] = part
            filled += part.numel()
            self._at = (self._at + part.numel()) % BLOCK
        return found


def _member(shapes: Shapes, index: int, device: str) -> Iterator[tuple[str, Tensor]]:
    """The base (0) or the index-th expert in bf16, tensor by tensor."""
    base, own = _Noise(0, BASE_STD, device), _Noise(index, EXPERT_STD, device)
    for name, shape in shapes.items():
        weight = base.take(math.prod(shape)).bfloat16()
        if index:
            weight = own.take(math.prod(shape)).add_(weight).bfloat16()
        yield name, weight.view(shape)


def _write_member(
    folder: Path, architecture: Architecture, shapes: Shapes, index: int, device: str, resident: bool
) -> dict[str, Tensor]:
    """One checkpoint folder; returns its tensors if they are resident, and else an empty dictionary."""
    folder.mkdir(parents=True)
    architecture.config().save_pretrained(folder)
    ledger_header = _header(shapes)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(ledger_header)
        if resident:
            file.truncate(len(ledger_header) + sum(2 * math.prod(shape) for shape in shapes.values()))
            return dict(_member(shapes, index, device))
        for _, tensor in _member(shapes, index, device):
            file.write(tensor.view(-1).view(torch.uint8).numpy().data)
    return {}


def _header(shapes: Shapes) -> bytes:
    """The start of a safetensors file that holds these tensors in bf16, in this order."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class _Resident(Checkpoint):
    """A checkpoint whose header is a file and whose tensors are already on the device."""

    def __init__(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(folder)
        self._tensors = tensors

    def tensor(self, name: str) -> Tensor:
        """The tensor itself: read-only by contract."""
        return self._tensors[name]

    def move_to_host(self) -> None:
        """Keep the tensors in host memory from now on, as a search does that pins them."""
        self._tensors = {name: tensor.cpu() for name, tensor in self._tensors.items()}

    @cached_property
    def sha256(self) -> str:
        """A stand-in that differs between members: their files are all zeros."""
        return hashlib.sha256(str(self.folder).encode()).hexdigest()


def _make_resident(family: Family, base: ModelRef, full: tuple[ModelRef, ...], held: list[dict[str, Tensor]]) -> None:
    family.base.checkpoint = _Resident(Path(base.path), held[0])
    for ref, tensors in zip(full, held[1:], strict=True):
        expert = family.experts[ref]
        assert isinstance(expert, FullExpert)
        expert.checkpoint = _Resident(Path(ref.path), tensors)


def move_to_host(members: Members) -> None:
    """Move the resident weights of base and experts to the host; the live model stays on its device."""
    family = members.family
    for checkpoint in (family.base.checkpoint, *(family.experts[ref].checkpoint for ref in members.experts)):
        assert isinstance(checkpoint, _Resident)
        checkpoint.move_to_host()


def _write_adapter(folder: Path, base: ModelRef, shapes: Shapes, seed: int) -> ModelRef:
    """A LoRA adapter of rank 16 on every linear layer of the blocks."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    adapted = [name.removesuffix(".weight") for name in shapes if name.endswith("_proj.weight")]
    tensors = {}
    for module in adapted:
        rows, columns = shapes[f"{module}.weight"]
        for part, shape in (("A", (RANK, columns)), ("B", (rows, RANK))):
            factor = torch.randn(shape, generator=generator).mul_(BASE_STD)
            tensors[f"base_model.model.{module}.lora_{part}.weight"] = factor.bfloat16()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({module.rpartition(".")[2] for module in adapted})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base.path}
    config_text = json.dumps(config | {"r": RANK, "lora_alpha": ALPHA, "target_modules": targets}, indent=1)
    (folder / "adapter_config.json").write_text(config_text)
    return ModelRef(base.path, adapter=str(folder))
