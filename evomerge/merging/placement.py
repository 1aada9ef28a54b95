"""Where the experts live while a search runs: on the device, in pinned host memory, or in the page cache.

The base takes part as a source too: a candidate is rebuilt from it, so it needs a copy beside the live model.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from evomerge.environment import free_host_memory
from evomerge.errors import ConfigError
from evomerge.kernels import Factors, Sources, Update
from evomerge.models import Family, torch_dtype

Mode = Literal["device", "pinned", "mmap"]
AHEAD = 3  # tensors of every model on the device at once: one arrives, one is merged, one is not let go of yet
RESERVE = 0.3  # of the device for activations, caches and logits of the forward passes
HOST_RESERVE = 0.2  # of the host's free memory that is left alone


@dataclass(frozen=True)
class Sizes:
    """Bytes: the live model, all sources (base and experts) together, and their largest tensor, of all together."""

    model: int
    sources: int
    largest: int


@dataclass(frozen=True)
class Memory:
    """Bytes that are there: of the device in all (0 without one), and of the host free."""

    device: int
    host: int


def plan_placement(sizes: Sizes, memory: Memory) -> Mode:
    """The fastest mode that fits; ConfigError where not even the model and the staged tensors fit on the device."""
    if not memory.device:
        return "mmap"
    free = int(memory.device * (1 - RESERVE)) - sizes.model
    if sizes.sources <= free:
        return "device"
    if AHEAD * sizes.largest > free:
        need = (sizes.model + AHEAD * sizes.largest) / (1 - RESERVE)
        raise ConfigError(
            f"model.device: {memory.device / 1e9:.1f} GB do not hold the model and {AHEAD} tensors of every source; "
            f"use a device with {need / 1e9:.1f} GB, or cpu"
        )
    return "pinned" if sizes.sources <= memory.host * (1 - HOST_RESERVE) else "mmap"


def sizes(family: Family, dtype: str) -> Sizes:
    """What a live model in `dtype` and all sources weigh, from headers."""
    each = [family.nbytes(name) for name in family.base.destination]
    parameters = sum(math.prod(shape) for shape in family.base.skeleton.parameters.values())
    return Sizes(parameters * torch_dtype(dtype).itemsize, sum(each), max(each))


def memory(device: str, model: int) -> Memory:
    """What is free here, where `model` bytes of the device already hold the live model."""
    free = torch.cuda.mem_get_info(device)[0] + model if torch.device(device).type == "cuda" else 0
    return Memory(free, free_host_memory())


def choose_placement(mode: str, family: Family, device: str, dtype: str, *, loaded: bool) -> "Placement":
    """The placement of this name, or for `auto` the planned one; `loaded` tells whether the model is on the device."""
    if mode == "auto":
        own = sizes(family, dtype)
        mode = plan_placement(own, memory(device, own.model if loaded else 0))
    return Placement(cast(Mode, mode), torch.device(device))


class Placement:
    """Brings sources to the device as a mode says; on a CPU every mode reads what is already in memory."""

    def __init__(self, mode: Mode, device: torch.device) -> None:
        self.mode, self._device = mode, device
        self._cuda = device.type == "cuda"

    def place(self, update: Update) -> Update:
        """Where one tensor of one model stays between candidates."""
        if isinstance(update, Factors):
            return Factors(self.place_tensor(update.up), self.place_tensor(update.down), update.scale)
        return None if update is None else self.place_tensor(update)

    def place_tensor(self, tensor: Tensor) -> Tensor:
        """Where one tensor stays between candidates; one that no longer fits stays on the host, and comes when used.

        The plan counts models, not what methods prepare for them.
        """
        if self.mode == "device" and not (self._cuda and self._is_full(tensor.nbytes)):
            return tensor.to(self._device)
        return self._pinned(tensor) if self.mode == "pinned" and self._cuda else tensor

    def _pinned(self, tensor: Tensor) -> Tensor:
        """In pinned memory, or where it is when the host gives no more: slower, and as right."""
        try:
            return tensor.pin_memory()
        except RuntimeError:
            return tensor

    def _is_full(self, more: int) -> bool:
        free, total = torch.cuda.mem_get_info(self._device)
        return free - more < RESERVE * total

    def stream(self, sources: Iterable[Sources]) -> Iterator[Sources]:
        """The same sources with every tensor on the device, the next one on its way while one is in use."""
        if self.mode == "device" or not self._cuda:
            yield from sources
            return
        lane = _Lane(self._device)
        ahead: Sources | None = None
        for entry in sources:
            arriving = lane.send(entry)
            if ahead is not None:
                yield ahead
                lane.used()
            lane.arrived()
            ahead = arriving
        if ahead is not None:
            yield ahead


class _Lane:
    """A stream of copies beside the stream of passes; never more than AHEAD tensors of every model in flight."""

    def __init__(self, device: torch.device) -> None:
        self._copies = torch.cuda.Stream(device)
        self._device = device
        self._sent: torch.cuda.Event | None = None

    def send(self, sources: Sources) -> Sources:
        """Start the copies of one tensor."""
        with torch.cuda.stream(self._copies):
            staged = sources.to(self._device)
            self._sent = self._copies.record_event()
        for tensor in staged.tensors():
            tensor.record_stream(torch.cuda.current_stream(self._device))
        return staged

    def arrived(self) -> None:
        """Let the passes wait for the copies that were started last."""
        if self._sent is not None:
            torch.cuda.current_stream(self._device).wait_event(self._sent)

    def used(self) -> None:
        """Wait for the pass that was started last: what it read is free again before more is sent."""
        torch.cuda.current_stream(self._device).synchronize()
