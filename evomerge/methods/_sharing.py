"""RAM's elementwise rule, and the counts of elements that one expert or several experts changed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.kernels import Block, Consensus, LinComb, Sources
from evomerge.methods import DECIMALS, Gene, Setup, State
from evomerge.methods._magnitudes import evict_oldest

STEPS = 1000
SCALE = 10**DECIMALS  # thresholds are k·10⁻⁶, the resolution of a search
EPSILON = Gene("epsilon", 1 / SCALE, STEPS / SCALE, 1e-5, per="group", base=1e9, slope=False)


def ram_coefficients(epsilon: float, scales: Sequence[float]) -> Consensus | LinComb:
    """RAM with threshold `epsilon` and one scale per expert; a single expert without threshold is returned exactly."""
    if epsilon <= 0 and list(scales) == [1.0]:
        return LinComb(0.0, (1.0,))
    return Consensus(ram_update, (epsilon, *scales))


def ram_update(block: Block) -> Tensor:
    """The δ times the scale of the only expert that changed the element (|δ| > ε), or the mean δ of several experts.

    `numbers` are ε and one scale per expert.
    """
    changed = [delta.abs() > block.numbers[0] for delta in block.deltas]
    count, total, scaled = (torch.zeros_like(block.base) for _ in range(3))
    for i, (mask, delta) in enumerate(zip(changed, block.deltas, strict=True)):
        masked = torch.where(mask, delta, delta * 0.0)
        count, total = count + torch.where(mask, 1.0, 0.0), total + masked
        scaled = scaled + masked * block.numbers[1 + i]
    return torch.where(count > 1.5, total / torch.clamp(count, min=1.0), scaled)


def prepare(sources: Sources) -> State:
    """`changed` int64 [experts, 1001]: the number of elements with |δ| > k·10⁻⁶; `shared`: those of them that another
    expert changed as well."""
    levels = torch.tensor([k / SCALE for k in range(STEPS + 1)], dtype=torch.float32)
    changed, shared = _counts(sources, levels)
    return {"changed": changed, "shared": shared}


def shared_and_alone(setup: Setup, epsilon: float) -> list[tuple[int, int]]:
    """For each expert, the number of elements that it changed together with others, and alone."""
    step = round(epsilon * SCALE)
    if 0 <= step <= STEPS and step / SCALE == epsilon:
        changed, shared = setup.state["changed"][:, step], setup.state["shared"][:, step]
    else:
        if epsilon not in setup.memo:
            evict_oldest(setup.memo)
            setup.memo[epsilon] = _counts(setup.sources, torch.tensor([epsilon], dtype=torch.float32))
        changed, shared = (table[:, 0] for table in setup.memo[epsilon])
    return [(both, some - both) for some, both in zip(changed.tolist(), shared.tolist(), strict=True)]


def _counts(sources: Sources, levels: Tensor) -> tuple[Tensor, Tensor]:
    """The counts `changed` and `shared` at each threshold of `levels`, both int64 [experts, levels]."""
    first, second = _largest_two(sources)
    changed, shared = [], []
    for i in range(len(sources)):
        magnitudes = sources.delta(i).abs_().flatten()
        others = torch.where(magnitudes == first, second, first)  # the largest magnitude among the other experts
        changed.append(_above(magnitudes, levels))
        shared.append(_above(torch.minimum(magnitudes, others), levels))
    return torch.stack(changed), torch.stack(shared)


def _largest_two(sources: Sources) -> tuple[Tensor, Tensor]:
    """The largest and the second largest |δ| of each element over the experts; −∞ if there is only one expert."""
    first = sources.delta(0).abs_().flatten()
    second = torch.full_like(first, -torch.inf)
    for i in range(1, len(sources)):
        magnitudes = sources.delta(i).abs_().flatten()
        second = torch.maximum(second, torch.minimum(first, magnitudes))
        first = torch.maximum(first, magnitudes)
    return first, second


def _above(values: Tensor, levels: Tensor) -> Tensor:
    """The number of values above each of the ascending levels."""
    below = torch.bucketize(values, levels.to(values.device))  # number of levels below each value
    histogram = torch.bincount(below, minlength=len(levels) + 1).cpu()
    return histogram.flip(0).cumsum(0).flip(0)[1:]
