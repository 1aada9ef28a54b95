"""Batches under a token budget, halved for good when the device runs out of memory."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")

log = logging.getLogger(__name__)


class MemoryBudget:
    """How many tokens, padding included, a batch may hold."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def run(self, items: Sequence[T], cost: Callable[[Sequence[T]], int], work: Callable[[Sequence[T]], None]) -> None:
        """`work` on items in their order, as many at once as `cost` allows and at least one.

        A batch that does not fit the memory is done again in smaller ones, so `work` must be repeatable.
        """
        done = 0
        while done < len(items):
            batch = self._batch(items[done:], cost)
            if _fits(work, batch):
                done += len(batch)
                continue
            self.tokens = cost(batch[: len(batch) // 2])
            log.warning("out of memory with %d items in a batch: going on with %d tokens", len(batch), self.tokens)

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
        torch.cuda.empty_cache()  # after the handler, which held what the batch had allocated
    return False


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the device or the host had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
