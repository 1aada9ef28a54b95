"""Batches under a token budget, which is permanently reduced when the device runs out of memory."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")

log = logging.getLogger(__name__)


class MemoryBudget:
    """The largest number of tokens of a batch, padding included."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def run(self, items: Sequence[T], cost: Callable[[Sequence[T]], int], work: Callable[[Sequence[T]], None]) -> None:
        """Call `work` on the items in order, in batches whose `cost` in tokens is within the budget, or of one item.

        A batch that runs out of memory is repeated in smaller ones, so `work` must be repeatable.
        """
        done = 0
        while done < len(items):
            batch = self._batch(items[done:], cost)
            if _fits(work, batch):
                done += len(batch)
                continue
            self.tokens = cost(batch[: len(batch) // 2])
            log.warning("out of memory with %d items in a batch: continuing with %d tokens", len(batch), self.tokens)

    def _batch(self, items: Sequence[T], cost: Callable[[Sequence[T]], int]) -> Sequence[T]:
        count = 1
        while count < len(items) and cost(items[: count + 1]) <= self.tokens:
            count += 1
        return items[:count]


def _fits(work: Callable[[Sequence[T]], None], batch: Sequence[T]) -> bool:
    try:
        work(batch)
        return True
    except RuntimeError as error:
        if len(batch) == 1 or not out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # outside of the handler, as the exception references the batch's tensors
    return False


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that the device or the host ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
