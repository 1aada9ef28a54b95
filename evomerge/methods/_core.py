"""Core Space: the adapters of one base as small matrices in two bases that they share (Panariello et al.,
arXiv 2509.17786; `MatrixPerLayerMerger` of the authors' code).

δᵢ = U·Mᵢ·V, where U are the left singular vectors of [B₁ … B_N], V the right singular vectors of [A₁; …; A_N], and Mᵢ =
Uᵀ·sᵢBᵢAᵢ·Vᵀ has at most Σ rᵢ rows and columns. The decomposition is lossless and preserves inner products, and the cost
of a rule on Mᵢ depends on the ranks, not on the size of the weights. A linear rule gives the same result as in full
space. An elementwise rule gives another result, which depends on the bases U and V. They are computed from the stored
factors of every adapter of the recipe, including those of weight zero; the scale sᵢ is part of Mᵢ, as in the authors'
code.
"""

from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.errors import ConfigError
from evomerge.kernels import (
    Block,
    Consensus,
    Factors,
    Keep,
    LinComb,
    LowRank,
    Mask,
    Trim,
    Vote,
    shared_round,
    uniform24,
)
from evomerge.methods import Genes, Setup, State
from evomerge.methods._contract import FloatArray
from evomerge.methods._magnitudes import STEPS, evict_oldest
from evomerge.methods._spectral import one_thread
from evomerge.methods._task_vectors import MaskOf, ScaleOf, merge

RANK_TOLERANCE = 1e-9  # relative: smaller singular values of the stored factors are rounding errors of float64
BLOCK = 1 << 13  # elements of every core per step, so that temporaries fit in a processor's cache


class CoreSpace(NamedTuple):
    """The bases and cores with δᵢ = up @ cores[i] @ down, all in float64 on the host."""

    up: Tensor  # [rows, p], orthonormal columns
    down: Tensor  # [q, columns], orthonormal rows
    cores: Tensor  # [experts, p, q]
    ranks: tuple[int, ...]  # of the adapters; 0 for an adapter that does not change the tensor

    def banks(self) -> State:
        """The bases as banks of a `LowRank` pass; fp32, because a lower precision would not be lossless."""
        return {"bank.up": self.up.float(), "bank.down": self.down.float()}


def prepare(setup: Setup) -> State:
    """`bank.up`, `bank.down` and `cores` float64 [experts, p, q]; empty if no adapter changes the tensor."""
    space = core_space(setup)
    return {**space.banks(), "cores": space.cores} if space else {}


def thresholds(state: State) -> State:
    """`thresholds` float64 [experts, 1001]: the smallest of the max(1, ⌊k/1000·n⌋) largest magnitudes of a core."""
    if not state:
        return {}
    ordered = np.sort(np.abs(state["cores"].flatten(1).numpy()), axis=1)
    kept = [_kept_count(ordered.shape[1], k / STEPS) for k in range(STEPS + 1)]
    return {"thresholds": torch.from_numpy(ordered[:, [-keep for keep in kept]])}


@one_thread()
def core_space(setup: Setup) -> CoreSpace | None:
    """The Core Space of all adapters, or None if none of them changes the tensor.

    It is always computed on the host, so that one folder of prepared tensors serves every device. Null directions and
    adapters whose update is zero are left out. NaN or infinity in a factor gives NaN in every core. Raises ConfigError
    if an expert has a dense weight instead of factors.
    """
    factors = _factors(setup)
    if not all(bool(side.isfinite().all()) for factor in factors for side in (factor.up, factor.down)):
        return _nan_space(setup)
    factors = [_without_rank(factor) if _is_zero(factor) else factor for factor in factors]
    ranks = tuple(factor.up.shape[1] for factor in factors)
    if not any(ranks):
        return None
    up = _basis(torch.cat([factor.up for factor in factors], dim=1))
    down = _basis(torch.cat([factor.down for factor in factors]).T).T
    cores = [(up.T @ factor.up) @ (factor.down @ down.T) * factor.scale for factor in factors]
    return CoreSpace(up, down, torch.stack(cores), ranks)


def vote(setup: Setup, genes: Genes, mask_of: MaskOf, scale_of: ScaleOf) -> LinComb | LowRank:
    """The vote of the TIES family on the cores; exactly the base if the merged core is zero."""
    base = LinComb(1.0, (0.0,) * len(setup.sources))
    if not setup.state:
        return base
    merged = merge(setup, genes, mask_of, scale_of, elect=True)
    if isinstance(merged, LinComb):
        return merged
    core = _evaluate(merged, setup.state["cores"])
    return LowRank(core) if core.any() else base


def trim(setup: Setup, expert: int, density: float) -> Mask:
    """Keep the max(1, ⌊density·n⌋) largest magnitudes of a core's n elements, and all ties at the threshold."""
    if density >= 1:
        return Keep()
    return Trim(_threshold(setup, expert, density) if density > 0 else float("inf"))


def _threshold(setup: Setup, expert: int, density: float) -> float:
    step = round(density * STEPS)
    if step / STEPS == density:
        return float(setup.state["thresholds"][expert, step])
    if ("threshold", expert, density) not in setup.memo:
        evict_oldest(setup.memo)
        magnitudes = np.abs(setup.state["cores"][expert].flatten().numpy())
        place = len(magnitudes) - _kept_count(len(magnitudes), density)
        setup.memo["threshold", expert, density] = float(np.partition(magnitudes, place)[place])
    return float(setup.memo["threshold", expert, density])


def _kept_count(size: int, density: float) -> int:
    return max(1, int(density * size))


def _evaluate(consensus: Consensus, cores: Tensor) -> FloatArray:
    """The merged core: a `Consensus` of the TIES family applied to the cores in float64; masks index a core's elements.

    It repeats `Vote` in numpy, because `Vote` is written for a compiler and would run as many small operations here.
    """
    rule = cast(Vote, consensus.rule)
    table = np.array(consensus.numbers[1:]).reshape(-1, len(cores), 1)
    flat, parts = cores.flatten(1).numpy(), []
    for first in range(0, flat.shape[1], BLOCK):
        deltas = flat[:, first : first + BLOCK]
        if rule.kind == "drop":
            deltas = deltas * _drop_mask(consensus.words, first, deltas.shape)
        elif rule.kind == "trim":
            deltas = deltas * (np.abs(deltas) >= table[2])
        parts.append(_vote(rule, deltas * table[1], table[0]))
    return np.concatenate(parts).reshape(cores.shape[1:]) * consensus.numbers[0]


def _vote(rule: Vote, deltas: FloatArray, weights: FloatArray) -> FloatArray:
    """The vote on masked and scaled task vectors [experts, elements], before the factor λ."""
    votes = deltas * weights
    voters = votes if rule.sign == "weighted" else deltas
    agree = voters * np.where(voters.sum(axis=0) >= 0, 1.0, -1.0) > 0
    total = (votes * agree).sum(axis=0)  # a product, so that NaN of an expert stays visible
    if rule.normalize:
        divisor = (agree * (weights if rule.divisor == "weights" else 1.0)).sum(axis=0)
        total /= np.where(divisor == 0, 1.0, divisor)
    return np.asarray(total)


def _drop_mask(words: tuple[int, ...], first: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """DARE's mask [experts, elements] from element `first` on; `words` are those of `Vote`."""
    values, zero = torch.tensor(words, dtype=torch.int32), torch.tensor(0, dtype=torch.int32)
    keys, thresholds = values[1:].view(2, -1, 1)
    block = Block(torch.empty(shape[1]), (), (), zero, values, torch.tensor(first, dtype=torch.int32), zero)
    return np.asarray((uniform24(shared_round(block, values[0]), keys, zero) < thresholds).numpy())


def _factors(setup: Setup) -> list[Factors]:
    """Every expert's factors in float64 on the host; rank 0 for an expert that does not change the tensor."""
    updates = [setup.sources.update(i) for i in range(len(setup.sources))]
    for place, update in enumerate(updates, 1):
        if isinstance(update, Tensor):
            raise ConfigError(
                f"{setup.sources.name}: expert {place} brings a whole weight, and Core Space merges LoRA factors only;"
                " give plain LoRA adapters of the base (no DoRA, trained biases or saved modules) or choose ties"
            )
    if all(update is None for update in updates):
        return []
    found = setup.sources.factors() or []
    return [Factors(factor.up.double().cpu(), factor.down.double().cpu(), factor.scale) for factor in found]


def _is_zero(factors: Factors) -> bool:
    return not (factors.scale and factors.up.any() and factors.down.any())


def _without_rank(factors: Factors) -> Factors:
    return Factors(factors.up[:, :0], factors.down[:0], factors.scale)


def _nan_space(setup: Setup) -> CoreSpace:
    rows, columns = setup.sources.shape
    cores = torch.full((len(setup.sources), 1, 1), float("nan"), dtype=torch.float64)
    return CoreSpace(torch.ones(rows, 1), torch.ones(1, columns), cores, ())


def _basis(stack: Tensor) -> Tensor:
    """The left singular vectors of non-null singular values, each with a positive largest element."""
    vectors, values, _ = torch.linalg.svd(stack, full_matrices=False)
    vectors = vectors[:, values > RANK_TOLERANCE * values[0]]
    signed: Tensor = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    return signed
