"""DELLA's random masks, whose keep probability grows with an element's rank, without computing ranks in the pass.

The probability density − ε + 2ε·rank/(n − 1) is a mixture: a coin per element is heads with probability rank/(n − 1),
and the element is kept with probability density + ε for heads and density − ε for tails. The coins do not depend on the
genes, so they are prepared with one bit per element and expert. The L1 norm under a mask is then the sum of one entry
of a table over the heads and one entry of a table over the tails.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import CandidateError
from evomerge.kernels import EXPERTS_PER_BYTE, MASK_LEVELS, Keep, Mask, RankDrop, Sources, mask_keys, mask_threshold
from evomerge.methods import Gene, Genes, Setup, State, _drops
from evomerge.methods._magnitudes import DENSITY_DECIMALS, STEPS, evict_oldest, exact_l1
from evomerge.methods._task_vectors import MaskOf, ScaleOf, ratio, unscaled

GENES = (
    Gene("weight", 0.0, 1.5, 0.5, base=0.0),
    Gene(
        "density", 0.2, 0.8, 0.5, decimals=DENSITY_DECIMALS, slope=False
    ),  # the probabilities are inside (0, 1) for every epsilon below
    Gene("epsilon", 0.0, 0.19, 0.15, decimals=DENSITY_DECIMALS, slope=False),
    Gene("lambda", 0.0, 2.0, 1.0, per="group"),
)
WEIGHT_DENSITY_EPSILON = {"weight": None, "density": 1.0, "epsilon": 0.15}
CHUNK = 1 << 24  # elements ranked at a time


def prepare(sources: Sources, seed: int) -> State:
    """`bank.coins.N` uint8 with one bit for each of 8 experts; `heads_l1` and `tails_l1` float64 [experts, 1001]:
    the L1 norm of the elements with that coin that a keep probability of k/1000 keeps."""
    keys = mask_keys(seed, sources.name, len(sources))
    coin_keys = mask_keys(seed, f"{sources.name}\0coins", len(sources))
    banks = [
        torch.zeros(sources.shape, dtype=torch.uint8, device=sources.device)
        for _ in range(0, len(sources), EXPERTS_PER_BYTE)
    ]
    tables: dict[str, list[Tensor]] = {"heads_l1": [], "tails_l1": []}
    for i in range(len(sources)):
        delta = sources.delta(i)
        coins = _flip_coins(delta, coin_keys[0], coin_keys[1 + i])
        banks[i // EXPERTS_PER_BYTE] |= coins.to(torch.uint8) << (i % EXPERTS_PER_BYTE)
        for name, side in (("heads_l1", coins), ("tails_l1", ~coins)):
            tables[name].append(_drops.kept_l1_table(delta * side, keys[0], keys[1 + i]))
    norms = {name: torch.stack(rows) for name, rows in tables.items()}
    return norms | {f"bank.coins.{i}": bank for i, bank in enumerate(banks)}


def drop(genes: Genes) -> MaskOf:
    """Each expert's random mask; CandidateError if density ± epsilon leaves (0, 1), as in mergekit."""

    def mask(setup: Setup, expert: int, density: float) -> Mask:
        epsilon = _epsilon(genes, expert)
        if density >= 1:
            return Keep()
        if density <= 0:
            return RankDrop(0.0, 0.0)
        if not (0 <= density + epsilon < 1 and 0 < density - epsilon <= 1):
            raise CandidateError(f"della: density {density} ± epsilon {epsilon} leaves (0, 1); lower epsilon")
        return RankDrop(density, epsilon)

    return mask


def drop_scale(genes: Genes) -> ScaleOf:
    """‖δ‖₁ / ‖masked δ‖₁ if `rescale` is on, so that the L1 norm stays the same; else 1."""

    def scale(setup: Setup, expert: int, density: float) -> float:
        if not 0 < density < 1:
            return 1.0
        epsilon = _epsilon(genes, expert)
        kept = _kept_l1(setup, expert, density + epsilon, "heads") + _kept_l1(setup, expert, density - epsilon, "tails")
        return ratio(_kept_l1(setup, expert, 1.0, "heads") + _kept_l1(setup, expert, 1.0, "tails"), kept)

    return scale if genes.shared["rescale"] else unscaled


def rank_shares(magnitudes: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """rank/(n − 1)·2²⁴ in each row of [rows, n], a few rows at a time; the smallest magnitude has rank 0.

    Equal magnitudes are ranked by position. In a row of one element the value is ½·2²⁴.
    """
    rows, size = magnitudes.shape
    levels = np.round(np.arange(size) / (size - 1) * MASK_LEVELS) if size > 1 else np.full(size, MASK_LEVELS / 2)
    shares = torch.from_numpy(levels.astype(np.int32)).to(magnitudes.device)
    places = torch.arange(size, device=magnitudes.device)
    step = max(1, CHUNK // max(1, size))
    for first in range(0, rows, step):
        part = magnitudes[first : first + step]
        keys = (part.contiguous().view(torch.int32).long() << 32) | places
        # numpy sorts integers several times faster than torch on a CPU.
        ordered = torch.from_numpy(np.sort(keys.numpy())) if keys.device.type == "cpu" else keys.sort().values
        ranked = torch.empty_like(part, dtype=torch.int32)
        yield slice(first, first + step), ranked.scatter_(1, ordered & 0xFFFFFFFF, shares.expand_as(part))


def _flip_coins(delta: Tensor, tensor_key: int, expert_key: int) -> Tensor:
    """True for heads, per element; ranks are along a matrix's second axis or over a whole vector (as in mergekit)."""
    rows = (delta if delta.ndim > 1 else delta.reshape(1, -1)).abs().movedim(1, -1)
    shares = torch.empty(rows.shape, dtype=torch.int32, device=delta.device)
    flat = shares.view(-1, rows.shape[-1])
    for part, ranked in rank_shares(rows.reshape(flat.shape)):
        flat[part] = ranked
    thresholds = shares.movedim(-1, 1).reshape(-1)
    numbers = _drops.random_numbers(delta.flatten(), tensor_key, expert_key)
    return torch.cat([part_numbers < thresholds[part] for part, part_numbers in numbers]).view(delta.shape)


def _kept_l1(setup: Setup, expert: int, share: float, side: str) -> float:
    """The L1 norm of the expert's elements with this coin (heads or tails) that a keep probability of `share` keeps."""
    step = round(share * STEPS)
    if mask_threshold(step / STEPS) == mask_threshold(share):  # the two masks are equal
        return float(setup.state[f"{side}_l1"][expert, step])
    if (side, expert, share) not in setup.memo:
        evict_oldest(setup.memo)
        keys = mask_keys(setup.seed, setup.sources.name, len(setup.sources))
        coins = (setup.sources.bank(f"coins.{expert // EXPERTS_PER_BYTE}") >> (expert % EXPERTS_PER_BYTE)) & 1
        delta = setup.sources.delta(expert).mul_(coins == (side == "heads")).flatten()
        top = float(delta.abs().max())  # the unit of `exact_l1`, also if the largest element is dropped
        kept = [part < mask_threshold(share) for _, part in _drops.random_numbers(delta, keys[0], keys[1 + expert])]
        setup.memo[side, expert, share] = exact_l1(delta.mul_(torch.cat(kept)), top)
    return float(setup.memo[side, expert, share])


def _epsilon(genes: Genes, expert: int) -> float:
    return float(genes.experts[expert]["epsilon"])
