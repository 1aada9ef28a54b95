"""The placement of the source tensors during a search: on the device, in pinned host memory, or in memory-mapped files.

The base is a source too: every candidate is computed from it, so it needs a copy in addition to the live model.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, cast

import torch
from torch import Tensor

from evomerge.environment import free_host_memory
from evomerge.errors import ConfigError
from evomerge.kernels import Factors, Sources, Update
from evomerge.merging.prefetch import Prefetcher
from evomerge.models import Family, layer_of, torch_dtype

Mode = Literal["device", "pinned", "mmap"]
PREFETCH_DEPTH = 3  # tensors of every model on the device at once: one being copied, one being merged, one being freed
RESERVE = 0.3  # fraction of device memory for activations, KV caches and logits
HOST_RESERVE = 0.2  # fraction of the host's free memory that is not used


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of the live model, of all sources (base and experts), and of the largest tensor summed over all sources."""

    model: int
    sources: int
    largest: int

    def device_size(self, mode: Mode) -> float:
        """Bytes of a device that holds the model and, in this mode, its share of the sources, with the reserve."""
        sources = self.sources if mode == "device" else PREFETCH_DEPTH * self.largest
        return (self.model + sources) / (1 - RESERVE)


@dataclass(frozen=True)
class AvailableMemory:
    """Bytes of device memory in total (0 without a device) and of free host memory."""

    device: int
    host: int


def plan_placement(need: MemoryNeed, memory: AvailableMemory) -> Mode:
    """The fastest mode that fits; ConfigError if the model and the prefetched tensors do not fit on the device."""
    if not memory.device:
        return "mmap"
    free = int(memory.device * (1 - RESERVE)) - need.model
    if need.sources <= free:
        return "device"
    if PREFETCH_DEPTH * need.largest > free:
        raise ConfigError(
            f"model.device: {memory.device / 1e9:.1f} GB do not hold the model and {PREFETCH_DEPTH} tensors of every "
            f"source; use a device with {need.device_size('pinned') / 1e9:.1f} GB, or cpu"
        )
    return "pinned" if need.sources <= memory.host * (1 - HOST_RESERVE) else "mmap"


def memory_need(family: Family, dtype: str) -> MemoryNeed:
    """The sizes of a live model in `dtype` and of all sources, from headers."""
    each = [family.nbytes(name) for name in family.base.destination]
    return MemoryNeed(family.base.parameter_count * torch_dtype(dtype).itemsize, sum(each), max(each))


def flow_need(family: Family, dtype: str, models: int, max_layers: int, outputs: Sequence[str]) -> tuple[int, int]:
    """Bytes of the layers of so many models, and of the scaled tensors of a flow, whose names contain `outputs`."""
    size = torch_dtype(dtype).itemsize
    sizes = {name: prod(family.base.shape(name)) * size for name in family.layout.names if layer_of(name)}
    scaled = sum(count for name, count in sizes.items() if any(text in name for text in outputs))
    return models * sum(sizes.values()), scaled * max_layers // family.layout.layers


def available_memory(device: str, model: int) -> AvailableMemory:
    """The memory of this machine; `model` is the size of a live model that is already on the device."""
    free = torch.cuda.mem_get_info(device)[0] + model if torch.device(device).type == "cuda" else 0
    return AvailableMemory(free, free_host_memory())


@dataclass(frozen=True)
class MemoryPlan:
    """The bytes of each place for a GPU of `total` bytes, `more` of them for an engine or for resident layers."""

    mode: Mode
    need: MemoryNeed
    more: int
    total: int

    @property
    def sources_on_device(self) -> int:
        """Bytes of base and experts that are on the GPU at once: all of them, or the prefetched tensors."""
        return self.need.sources if self.mode == "device" else PREFETCH_DEPTH * self.need.largest

    @property
    def free(self) -> int:
        """Bytes of the GPU that are left for activations, KV caches and logits."""
        return self.total - self.need.model - self.more - self.sources_on_device


def plan_memory(
    mode: str, family: Family, device: str, dtype: str, *, limit: int | None = None, more: int = 0
) -> MemoryPlan | None:
    """The plan for the GPU `device`, of which at most `limit` bytes are used, before the model is loaded.

    Without a GPU the plan is that of a GPU of `limit` bytes beside this machine's host memory; None without a limit.
    ConfigError if model and prefetched tensors do not fit.
    """
    need, memory = memory_need(family, dtype), available_memory(device, 0)
    if not memory.device and limit is None:
        return None
    total = min(size for size in (memory.device or None, limit) if size is not None)
    whole = replace(need, model=need.model + more)
    chosen = plan_placement(whole, AvailableMemory(total, memory.host)) if mode == "auto" else cast(Mode, mode)
    return MemoryPlan(chosen, need, more, total)


def choose_placement(
    mode: str,
    family: Family,
    device: str,
    dtype: str,
    *,
    loaded: bool,
    limit: int | None = None,
    more: int = 0,
) -> "Placement":
    """The placement of this mode, or the planned one for `auto`; `loaded` says if the model is on the device.

    `limit` is the number of bytes of a GPU that may be used. On a CPU, where nothing is placed, it is only checked.
    `more` are bytes that the live model takes later, such as those of a flow's resident layers. ConfigError if model
    and sources do not fit.
    """
    need = memory_need(family, dtype)
    memory = available_memory(device, need.model if loaded else 0)
    need = replace(need, model=need.model + more)
    if limit is not None:
        _refuse_beyond(limit, mode, need, dtype)
        memory = replace(memory, device=min(memory.device, limit))
    if mode == "auto":
        mode = plan_placement(need, memory)
    return Placement(cast(Mode, mode), torch.device(device))


def _refuse_beyond(limit: int, mode: str, need: MemoryNeed, dtype: str) -> None:
    """ConfigError if a GPU of so many bytes does not hold the model and its share of the sources."""
    size = need.device_size("device" if mode == "device" else "pinned")
    if size > limit:
        smaller = "use a smaller model.dtype" if torch_dtype(dtype).itemsize > 2 else "merge fewer experts, or adapters"
        remedy = "use model.placement=auto" if need.device_size("pinned") <= limit else smaller
        raise ConfigError(
            f"budget.gpu_gb: {size / 1e9:.3g} GB are needed and {limit / 1e9:.3g} GB are allowed; {remedy}, or raise it"
        )


class Placement:
    """Stores sources and copies them to the device; on a CPU every mode reads the tensors where they are."""

    def __init__(self, mode: Mode, device: torch.device) -> None:
        self.mode, self._device = mode, device
        self._cuda = device.type == "cuda"
        self._prefetcher = Prefetcher(device)

    def place(self, update: Update) -> Update:
        """One tensor of one model, moved to its place between candidates."""
        if isinstance(update, Factors):
            return Factors(self.place_tensor(update.up), self.place_tensor(update.down), update.scale)
        return None if update is None else self.place_tensor(update)

    def place_tensor(self, tensor: Tensor) -> Tensor:
        """The tensor, moved to its place between candidates, or left on the host if the device has no room.

        The plan counts the models, not the tensors that methods prepare, so the device may be full.
        """
        if self.mode == "device" and not (self._cuda and self._is_full(tensor.nbytes)):
            return tensor.to(self._device)
        return self._pinned(tensor) if self.mode == "pinned" and self._cuda else tensor

    def _pinned(self, tensor: Tensor) -> Tensor:
        """A copy in pinned memory, or the tensor itself if the host cannot pin more; copies from it are slower."""
        try:
            return tensor.pin_memory()
        except RuntimeError:
            return tensor

    def _is_full(self, more: int) -> bool:
        free, total = torch.cuda.mem_get_info(self._device)
        return free - more < RESERVE * total

    def stream(self, sources: Iterable[Sources]) -> Iterator[Sources]:
        """The same sources with all tensors on the device; the next one is copied while the current one is in use."""
        if self.mode == "device" or not self._cuda:
            yield from sources
            return
        yield from self._prefetcher.stream(sources)
