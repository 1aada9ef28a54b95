"""Prefetching on a simulated device whose copies and passes run late and in a hostile order."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from evomerge.merging.placement import PREFETCH_DEPTH
from evomerge.merging.prefetch import Prefetcher
from tests.merging.simulated_device import HostSources, SimulatedDevice

SEEDS = (None, *range(40))  # None: nothing runs before the host waits for it
CUDA = torch.device("cuda")  # a name: no such device is needed
RULES = ["wait_event", "synchronize", "record_stream"]


def candidates(device: SimulatedDevice, counts: Iterable[int], closed_after: int | None = None) -> tuple[Any, Any]:
    """Merge candidates of so many tensors, one behind the other; what the passes have read, and should have."""
    prefetcher, found, wanted = Prefetcher(CUDA, device), list[object](), list[str]()
    for number, count in enumerate(counts):
        names = [f"{number}.{place}" for place in range(count)]
        stream: Any = prefetcher.stream(HostSources(device, name) for name in names)  # type: ignore[misc]
        for done, sources in enumerate(stream, 1):
            sources.merge(found)
            wanted.append(sources.name)
            if done == closed_after:
                break
        stream.close()
        del sources, stream
    device.passes.synchronize()
    return found, wanted


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("counts", [(1,), (2,), (7,), (5, 5, 1, 4)])
def test_every_pass_reads_its_own_tensor(seed: int | None, counts: tuple[int, ...]) -> None:
    device = SimulatedDevice(seed)
    found, wanted = candidates(device, counts)
    assert found == wanted and len(found) == sum(counts)


@pytest.mark.parametrize("seed", SEEDS)
def test_memory_does_not_grow_with_tensors_or_candidates(seed: int | None) -> None:
    device = SimulatedDevice(seed)
    candidates(device, (9, 9, 9, 9))
    assert device.blocks <= PREFETCH_DEPTH + 1 and len(device.streams) == 1  # the last pass of a candidate may be late


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pass_that_fails_leaves_the_next_candidate_right(seed: int | None) -> None:
    device = SimulatedDevice(seed)
    found, wanted = candidates(device, (6, 6, 6), closed_after=2)
    assert found == wanted and len(found) == 6


@pytest.mark.parametrize("removed", RULES)
def test_each_rule_is_needed(removed: str) -> None:
    """Without one of the waits, some order of the streams gives wrong tensors or more memory."""
    wrong = more = 0
    for seed in SEEDS:
        device = SimulatedDevice(seed, frozenset([removed]))
        found, wanted = candidates(device, (5, 5, 5))
        device.removed = frozenset()
        device.passes.synchronize()
        wrong, more = wrong + (found != wanted), more + (device.blocks > PREFETCH_DEPTH + 1)
    assert more if removed == "synchronize" else wrong


def test_the_next_tensor_is_copied_while_one_is_merged() -> None:
    device = SimulatedDevice(None)
    started: list[str] = []

    def sources() -> Iterable[HostSources]:
        for name in "abcd":
            started.append(name)
            yield HostSources(device, name)

    stream: Any = Prefetcher(CUDA, device).stream(sources())  # type: ignore[arg-type]
    for place, entry in enumerate(stream):
        assert started == list("abcd"[: place + 2])
        entry.merge([])


def test_nothing_to_copy_needs_no_stream() -> None:
    device = SimulatedDevice(None)
    assert list(Prefetcher(CUDA, device).stream([])) == [] and not device.streams
