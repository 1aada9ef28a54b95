"""RAM's rule, and how many changed elements of an expert are its own, for any threshold."""

from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.kernels import Block, Consensus, LinComb, Sources
from evomerge.methods import DECIMALS, Gene, Setup, State
from evomerge.methods._magnitudes import make_room

STEPS = 1000
SCALE = 10**DECIMALS  # thresholds are k·10⁻⁶, what a search's decimals can say
EPSILON = Gene("epsilon", 1 / SCALE, STEPS / SCALE, 1e-5, per="group", base=1e9)


def blended(epsilon: float, factors: Sequence[float]) -> Consensus | LinComb:
    """RAM with a threshold and a factor for each expert; a single expert as it is comes back to the bit."""
    if epsilon <= 0 and list(factors) == [1.0]:
        return LinComb(0.0, (1.0,))
    return Consensus(blend, (epsilon, *factors))


def blend(block: Block) -> Tensor:
    """Where one expert changed (|δ| > ε), its δ times a factor of its own; where several did, the mean of theirs.

    `numbers` are ε and a factor for each expert.
    """
    changed = [delta.abs() > block.numbers[0] for delta in block.deltas]
    count, total, scaled = (torch.zeros_like(block.base) for _ in range(3))
    for i, (mask, delta) in enumerate(zip(changed, block.deltas, strict=True)):
        masked = torch.where(mask, delta, delta * 0.0)
        count, total = count + torch.where(mask, 1.0, 0.0), total + masked
        scaled = scaled + masked * block.numbers[1 + i]
    return torch.where(count > 1.5, total / torch.clamp(count, min=1.0), scaled)


def prepare(sources: Sources) -> State:
    """`changed` and `shared` int64 [experts, 1001]: elements with |δ| > k·10⁻⁶, and those of them that another expert
    changed too."""
    levels = torch.tensor([k / SCALE for k in range(STEPS + 1)], dtype=torch.float32)
    changed, shared = _counts(sources, levels)
    return {"changed": changed, "shared": shared}


def sharing(setup: Setup, epsilon: float) -> list[tuple[int, int]]:
    """For each expert, how many elements it changed together with others and how many alone."""
    step = round(epsilon * SCALE)
    if 0 <= step <= STEPS and step / SCALE == epsilon:
        changed, shared = setup.state["changed"][:, step], setup.state["shared"][:, step]
    else:
        if epsilon not in setup.memo:
            make_room(setup.memo)
            setup.memo[epsilon] = _counts(setup.sources, torch.tensor([epsilon], dtype=torch.float32))
        changed, shared = (table[:, 0] for table in setup.memo[epsilon])
    return [(both, some - both) for some, both in zip(changed.tolist(), shared.tolist(), strict=True)]


def _counts(sources: Sources, levels: Tensor) -> tuple[Tensor, Tensor]:
    """An element is changed at a level below its |δ|, and shared at one below another expert's as well."""
    first, second = _largest_two(sources)
    changed, shared = [], []
    for i in range(len(sources)):
        own = sources.delta(i).abs_().flatten()
        others = torch.where(own == first, second, first)  # the largest of the others
        changed.append(_above(own, levels))
        shared.append(_above(torch.minimum(own, others), levels))
    return torch.stack(changed), torch.stack(shared)


def _largest_two(sources: Sources) -> tuple[Tensor, Tensor]:
    """The largest and the second largest |δ| of each element; −∞ where there is no second."""
    first = sources.delta(0).abs_().flatten()
    second = torch.full_like(first, -torch.inf)
    for i in range(1, len(sources)):
        own = sources.delta(i).abs_().flatten()
        second = torch.maximum(second, torch.minimum(first, own))
        first = torch.maximum(first, own)
    return first, second


def _above(values: Tensor, levels: Tensor) -> Tensor:
    """How many values are above each of the ascending levels."""
    below = torch.bucketize(values, levels.to(values.device))  # levels below the value
    found = torch.bincount(below, minlength=len(levels) + 1).cpu()
    return found.flip(0).cumsum(0).flip(0)[1:]
