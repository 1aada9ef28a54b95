"""Prefetching: the sources of the next tensor are copied to a CUDA device while the current one is merged."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from evomerge.kernels import Sources


class Prefetcher:
    """Copies sources to a device on one stream of its own; passes run on the stream that is current for the caller.

    Memory is bounded and nothing is read before it is there, by four rules:

    - A pass waits for the event that was recorded behind its own copies.
    - Copies of tensor i + 2 start after the pass over tensor i, so that at most three tensors of every model exist.
    - The copies are recorded as used by the stream of the passes (`record_stream`). They belong to the copy stream, and
      without that its next copy could be given the memory of a tensor whose pass is still to run.
    - One copy stream serves all candidates, because the allocator keeps freed memory apart for each stream.

    Host tensors are never written, and torch's pinned allocator does not reuse freed memory that a copy still reads, so
    an exception in a pass needs no synchronisation. `cuda` has the functions of `torch.cuda`.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device, self._cuda = device, cuda
        self._copies: Any = None

    def stream(self, sources: Iterable[Sources]) -> Iterator[Sources]:
        """The same sources with all tensors on the device; the next one is copied while the current one is in use."""
        ready: Sources | None = None
        for entry in sources:
            copied, event = self._start(entry)
            if ready is not None:
                yield ready
                self._current.synchronize()  # the inputs of the last pass are freed before more copies start
            self._current.wait_event(event)
            ready = copied
        if ready is not None:
            yield ready

    @property
    def _current(self) -> Any:
        """The stream of the passes."""
        return self._cuda.current_stream(self._device)

    def _start(self, sources: Sources) -> tuple[Sources, Any]:
        """Start the copies of one tensor's sources; the event is that of their end."""
        if self._copies is None:
            self._copies = self._cuda.Stream(self._device)
        with self._cuda.stream(self._copies):
            copied = sources.to(self._device)
            event = self._copies.record_event()
        for tensor in copied.tensors():
            tensor.record_stream(self._current)
        return copied, event
