"""Core Space: the adapters of one base as small matrices in two bases that they share (Panariello et al.,
arXiv 2509.17786; `MatrixPerLayerMerger` of the authors' code).

δᵢ = U·Mᵢ·V, with U the left singular vectors of [B₁ … B_N], V the right singular vectors of [A₁; …; A_N] and
Mᵢ = Uᵀ·sᵢBᵢAᵢ·Vᵀ, at most Σ rᵢ rows and columns. Nothing is lost, inner products stay, and any rule costs on Mᵢ what
the ranks cost and not what the weights would. A rule that is linear gives what it gives in full space; one that looks
at elements does not, and it sees the bases: they come from the factors as they are stored and from every adapter of the
recipe, one of weight zero too, and the scale sᵢ is in Mᵢ, as in the authors' convention.
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
from evomerge.methods._magnitudes import STEPS, make_room
from evomerge.methods._spectral import one_thread
from evomerge.methods._task_vectors import MaskOf, ScaleOf, merge

Array = NDArray[np.float64]
NULL = 1e-9  # relative: below it a singular value of the stored factors is a rounding error of float64
BLOCK = 1 << 13  # elements of every core whose temporaries stay in a processor's cache


class Space(NamedTuple):
    """δᵢ = up @ cores[i] @ down, all float64 and on the host."""

    up: Tensor  # [rows, p], orthonormal columns
    down: Tensor  # [q, columns], orthonormal rows
    cores: Tensor  # [experts, p, q]
    ranks: tuple[int, ...]  # of the adapters, 0 for one that does not change the tensor

    def banks(self) -> State:
        """The bases as a `LowRank` pass reads them; fp32, because a coarser basis would not be lossless."""
        return {"bank.up": self.up.float(), "bank.down": self.down.float()}


def prepare(setup: Setup) -> State:
    """`bank.up`, `bank.down` and `cores` float64 [experts, p, q]; nothing where no adapter changes the tensor."""
    space = of_adapters(setup)
    return {**space.banks(), "cores": space.cores} if space else {}


def thresholds(state: State) -> State:
    """`thresholds` float64 [experts, 1001]: the smallest magnitude of a core's ⌊k/1000·n⌋ largest, at least one."""
    if not state:
        return {}
    ordered = np.sort(np.abs(state["cores"].flatten(1).numpy()), axis=1)
    kept = [_kept(ordered.shape[1], k / STEPS) for k in range(STEPS + 1)]
    return {"thresholds": torch.from_numpy(ordered[:, [-keep for keep in kept]])}


@one_thread()
def of_adapters(setup: Setup) -> Space | None:
    """The space of all adapters, None where none changes the tensor; NaN or infinity in a factor is NaN in every core.

    Found on the host in any case, so that one folder of prepared tensors serves every device. Directions that no
    factor has, and adapters whose update is zero, are no part of it. ConfigError where an expert brings a whole weight.
    """
    factors = _factors(setup)
    if not all(bool(side.isfinite().all()) for factor in factors for side in (factor.up, factor.down)):
        return _broken(setup)
    factors = [_without_rank(factor) if _is_zero(factor) else factor for factor in factors]
    ranks = tuple(factor.up.shape[1] for factor in factors)
    if not any(ranks):
        return None
    up = _basis(torch.cat([factor.up for factor in factors], dim=1))
    down = _basis(torch.cat([factor.down for factor in factors]).T).T
    cores = [(up.T @ factor.up) @ (factor.down @ down.T) * factor.scale for factor in factors]
    return Space(up, down, torch.stack(cores), ranks)


def vote(setup: Setup, genes: Genes, mask_of: MaskOf, scale_of: ScaleOf) -> LinComb | LowRank:
    """The vote of the TIES family among the cores; the base itself where nothing is left, to the bit."""
    base = LinComb(1.0, (0.0,) * len(setup.sources))
    if not setup.state:
        return base
    found = merge(setup, genes, mask_of, scale_of, elect=True)
    if isinstance(found, LinComb):
        return found
    core = _evaluated(found, setup.state["cores"])
    return LowRank(core) if core.any() else base


def trim(setup: Setup, expert: int, density: float) -> Mask:
    """Keep the ⌊density·n⌋ largest magnitudes of a core's n elements, at least one; ties at the threshold are kept."""
    if density >= 1:
        return Keep()
    return Trim(_threshold(setup, expert, density) if density > 0 else float("inf"))


def _threshold(setup: Setup, expert: int, density: float) -> float:
    step = round(density * STEPS)
    if step / STEPS == density:
        return float(setup.state["thresholds"][expert, step])
    if ("threshold", expert, density) not in setup.memo:
        make_room(setup.memo)
        magnitudes = np.abs(setup.state["cores"][expert].flatten().numpy())
        place = len(magnitudes) - _kept(len(magnitudes), density)
        setup.memo["threshold", expert, density] = float(np.partition(magnitudes, place)[place])
    return float(setup.memo["threshold", expert, density])


def _kept(size: int, density: float) -> int:
    return max(1, int(density * size))


def _evaluated(found: Consensus, cores: Tensor) -> Array:
    """A `Consensus` of the TIES family with the cores for task vectors: `Vote` in float64, by a few large steps where
    its own form, made for a compiler, would be many small ones. Its masks count a core's elements."""
    rule = cast(Vote, found.rule)
    table = np.array(found.numbers[1:]).reshape(-1, len(cores), 1)
    flat, parts = cores.flatten(1).numpy(), []
    for first in range(0, flat.shape[1], BLOCK):
        deltas = flat[:, first : first + BLOCK]
        if rule.kind == "drop":
            deltas = deltas * _drawn(found.words, first, deltas.shape)
        elif rule.kind == "trim":
            deltas = deltas * (np.abs(deltas) >= table[2])
        parts.append(_voted(rule, deltas * table[1], table[0]))
    return np.concatenate(parts).reshape(cores.shape[1:]) * found.numbers[0]


def _voted(rule: Vote, deltas: Array, weights: Array) -> Array:
    """What `Vote` makes of masked and scaled task vectors, before λ."""
    votes = deltas * weights
    voters = votes if rule.sign == "weighted" else deltas
    agree = voters * np.where(voters.sum(axis=0) >= 0, 1.0, -1.0) > 0
    total = (votes * agree).sum(axis=0)  # a product: NaN is not voted away
    if rule.normalize:
        divisor = (agree * (weights if rule.divisor == "weights" else 1.0)).sum(axis=0)
        total /= np.where(divisor == 0, 1.0, divisor)
    return np.asarray(total)


def _drawn(words: tuple[int, ...], first: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """DARE's mask of [experts, elements] from the element `first` on; `words` as `Vote` has them."""
    given, nothing = torch.tensor(words, dtype=torch.int32), torch.tensor(0, dtype=torch.int32)
    keys, limits = given[1:].view(2, -1, 1)
    block = Block(torch.empty(shape[1]), (), (), nothing, given, torch.tensor(first, dtype=torch.int32), nothing)
    return np.asarray((uniform24(shared_round(block, given[0]), keys, nothing) < limits).numpy())


def _factors(setup: Setup) -> list[Factors]:
    """Every expert's factors in float64 on the host, of rank 0 where it does not change the tensor."""
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


def _broken(setup: Setup) -> Space:
    rows, columns = setup.sources.shape
    cores = torch.full((len(setup.sources), 1, 1), float("nan"), dtype=torch.float64)
    return Space(torch.ones(rows, 1), torch.ones(1, columns), cores, ())


def _basis(stack: Tensor) -> Tensor:
    """Left singular vectors of the values that are not null, each with its largest element above zero."""
    vectors, values, _ = torch.linalg.svd(stack, full_matrices=False)
    vectors = vectors[:, values > NULL * values[0]]
    signed: Tensor = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    return signed
