"""A CUDA device on paper: streams that run late and in a hostile order, and memory that is reused as soon as it may be.

The host only enqueues operations. Which of the streams proceeds, and how far, is drawn at random at each call, or as
late as possible: nothing runs before the host waits for it. Freed memory goes back to the stream that it was allocated
on, and is handed out again to that stream's next allocation, as torch's caching allocator does.
"""

import random
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

GARBAGE = "garbage"


class Event:
    """Done when its stream has reached it."""

    def __init__(self) -> None:
        self.is_done = False


@dataclass
class Stream:
    """Operations in order; one of them is an event to wait for, or a function."""

    device: "SimulatedDevice"
    name: str
    waiting: deque[Event | Callable[[], None]] = field(default_factory=deque)

    def enqueue(self, operation: Event | Callable[[], None]) -> None:
        """Add an operation; the device may run some of those that wait."""
        self.waiting.append(operation)
        self.device.idle()

    def record_event(self) -> Event:
        """An event behind everything that was enqueued."""
        event = Event()
        self.enqueue(lambda: setattr(event, "is_done", True))
        return event

    def wait_event(self, event: Event) -> None:
        """What is enqueued from now on runs after the event."""
        if "wait_event" not in self.device.removed:
            self.enqueue(event)

    def synchronize(self) -> None:
        """Let the host wait until everything that was enqueued here is done."""
        while self.waiting and "synchronize" not in self.device.removed:
            if not self.step():
                self.device.run_others(self)

    def step(self) -> bool:
        """Run the first operation, unless it is an event that has yet to come."""
        if not self.waiting or (isinstance(first := self.waiting[0], Event) and not first.is_done):
            return False
        self.waiting.popleft()
        if not isinstance(first, Event):
            first()
        return True


@dataclass
class Block:
    """Device memory of the stream that it was allocated on."""

    content: object = GARBAGE


class DeviceTensor:
    """What Python holds: its memory is free when it is collected and every stream that uses it has come so far."""

    def __init__(self, device: "SimulatedDevice", stream: Stream) -> None:
        self.block, self._used_by = device.allocate(stream), set[str]()
        weakref.finalize(self, device.free, self.block, stream, self._used_by)

    def record_stream(self, stream: Stream) -> None:
        """The stream uses the memory, too."""
        self._used_by.add(stream.name)


class SimulatedDevice:
    """Has the functions of `torch.cuda` that prefetching calls. `removed` names those that shall do nothing."""

    def __init__(self, seed: int | None, removed: frozenset[str] = frozenset()) -> None:
        self._draw = None if seed is None else random.Random(seed)
        self.removed = removed
        self.passes, self.streams = Stream(self, "passes"), list[Stream]()
        self._current = self.passes
        self._free: dict[str, list[Block]] = {}
        self.blocks = 0  # that were ever allocated
        self.Stream = self._new_stream

    def _new_stream(self, device: Any) -> Stream:
        self.streams.append(Stream(self, f"copies {len(self.streams)}"))
        return self.streams[-1]

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        """Make a stream the current one."""
        before, self._current = self._current, stream
        try:
            yield
        finally:
            self._current = before

    def current_stream(self, device: Any = None) -> Stream:
        """The stream on which operations are enqueued."""
        return self._current

    def idle(self) -> None:
        """Time passes on the host: the streams proceed by chance, or not at all."""
        while self._draw and self._draw.random() < 0.4:
            self._draw.choice([self.passes, *self.streams]).step()

    def run_others(self, waiting: Stream) -> None:
        """Proceed anywhere else, because this stream waits."""
        if not any(stream.step() for stream in [self.passes, *self.streams] if stream is not waiting):
            raise AssertionError("the streams wait for each other")

    def allocate(self, stream: Stream) -> Block:
        """Freed memory of the stream, else new memory."""
        free = self._free.setdefault(stream.name, [])
        if free:
            return free.pop()
        self.blocks += 1
        return Block()

    def free(self, block: Block, owner: Stream, used_by: set[str]) -> None:
        """Give memory back, behind what the other streams that use it have been given so far."""
        back = self._free.setdefault(owner.name, [])
        others = [] if "record_stream" in self.removed else [s for s in [self.passes] if s.name in used_by]
        if not others:
            back.append(block)
        for stream in others:
            stream.waiting.append(lambda: back.append(block))


class HostSources:
    """One tensor of a model on the host, or on the device; a copy arrives when its stream comes to it."""

    def __init__(self, device: SimulatedDevice, name: str, tensor: DeviceTensor | None = None) -> None:
        self._device, self.name, self._tensor = device, name, tensor

    def to(self, place: Any) -> "HostSources":
        """Enqueue the copy on the current stream."""
        stream = self._device.current_stream()
        tensor = DeviceTensor(self._device, stream)
        block = tensor.block

        def arrive() -> None:
            block.content = self.name

        stream.enqueue(arrive)
        return HostSources(self._device, self.name, tensor)

    def tensors(self) -> list[DeviceTensor]:
        """The tensors on the device."""
        return [self._tensor] if self._tensor else []

    def merge(self, found: list[object]) -> None:
        """Enqueue a pass on the current stream, which notes what it reads."""
        assert self._tensor
        block = self._tensor.block
        self._device.current_stream().enqueue(lambda: found.append(block.content))
