"""Derivatives of a merged tensor: inner products of a loss's gradient with the directions in which coefficients move.

A tangent is the derivative of a tensor's coefficients with respect to one number, in the same form as the coefficients:
a `LinComb` or `LowRank` of derivatives, or a `Consensus` whose `numbers` are derivatives. Masks, thresholds and elected
signs of an elementwise rule are constant in it, as they are almost everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.coefficients import Coefficients, Consensus, LinComb, LowRank, PerRow, Weight
from evomerge.kernels.consensus import Elementwise
from evomerge.kernels.factors import Factors
from evomerge.kernels.lowrank import Tiles, tile
from evomerge.kernels.runner import index_words
from evomerge.kernels.sources import Key, Sources

TINY = 1e-9  # a derivative of the base's coefficient below this is the rounding error of a sum of weights


def same_form(one: Coefficients, other: Coefficients) -> bool:
    """Whether two coefficients differ in their numbers only, so that the difference of the numbers has a meaning."""
    if isinstance(one, LinComb) and isinstance(other, LinComb):
        return len(one.directions) == len(other.directions)
    if isinstance(one, Consensus) and isinstance(other, Consensus):
        return (one.rule, one.bank, len(one.numbers)) == (other.rule, other.bank, len(other.numbers))
    return isinstance(one, LowRank) and isinstance(other, LowRank)


def tangent(plus: Coefficients, minus: Coefficients, width: float) -> Coefficients:
    """(plus − minus) / width, for coefficients of the same form."""
    if isinstance(plus, LinComb) and isinstance(minus, LinComb):
        experts = tuple(_quotient(a, b, width) for a, b in zip(plus.experts, minus.experts, strict=True))
        directions = tuple((a - b) / width for a, b in zip(plus.directions, minus.directions, strict=True))
        return LinComb(_quotient(plus.base, minus.base, width), experts, directions)
    if isinstance(plus, LowRank) and isinstance(minus, LowRank):
        return LowRank((plus.core - minus.core) / width)
    assert isinstance(plus, Consensus) and isinstance(minus, Consensus)
    numbers = tuple(_finite_quotient(a, b, width) for a, b in zip(plus.numbers, minus.numbers, strict=True))
    return replace(plus, numbers=numbers)


def _quotient(plus: Weight, minus: Weight, width: float) -> Weight:
    if isinstance(plus, float | int) and isinstance(minus, float | int):
        return (plus - minus) / width
    rows = max(len(side.values) for side in (plus, minus) if isinstance(side, PerRow))
    first, second = (side.values if isinstance(side, PerRow) else (side,) * rows for side in (plus, minus))
    return PerRow(tuple((a - b) / width for a, b in zip(first, second, strict=True)))


def _finite_quotient(plus: float, minus: float, width: float) -> float:
    return 0.0 if plus == minus else (plus - minus) / width  # thresholds may be infinite


def is_zero(coefficients: Coefficients, sources: Sources) -> bool:
    """Whether a tangent moves the tensor in no direction, for instance because no expert changes the tensor."""
    if isinstance(coefficients, LowRank):
        return not coefficients.core.any()
    if isinstance(coefficients, Consensus):
        return not any(coefficients.numbers) or (set(sources.kinds) == {"none"} and not coefficients.bank)
    moved = any(_any(w) for w, kind in zip(coefficients.experts, sources.kinds, strict=True) if kind != "none")
    return not (moved or any(coefficients.directions) or _any(_excess(coefficients), TINY))


def _any(weight: Weight, tolerance: float = 0.0) -> bool:
    return any(abs(value) > tolerance for value in (weight.values if isinstance(weight, PerRow) else (weight,)))


def _excess(coefficients: LinComb) -> Weight:
    """The base's coefficient in base·x₀ + Σ wᵢδᵢ, for coefficients of weights."""
    parts = (coefficients.base, *coefficients.experts)
    rows = max((len(part.values) for part in parts if isinstance(part, PerRow)), default=0)
    if not rows:
        return float(sum(part for part in parts if not isinstance(part, PerRow)))
    table = [part.values if isinstance(part, PerRow) else (part,) * rows for part in parts]
    return PerRow(tuple(map(sum, zip(*table, strict=True))))


@dataclass(frozen=True)
class LowRankTangents:
    """Tangents up @ core @ down of a matrix, for several cores: diagonals [n, r], or matrices [n, p, q].

    A linear layer with input x and output gradient g has the weight gradient gᵀx. Its inner products with the tangents
    follow from g @ up and x @ downᵀ, so the weight gradient itself, as large as the weight, is never computed.
    """

    up: Tensor  # [rows, p]
    down: Tensor  # [q, columns]
    cores: Tensor  # float64

    def project(self, inputs: Tensor) -> Tensor:
        """x @ downᵀ [tokens, q] in fp32, for inputs [..., columns]."""
        return inputs.detach().reshape(-1, inputs.shape[-1]).float() @ self.down.T

    def contract(self, projected: Tensor, output_gradient: Tensor) -> Tensor:
        """The derivatives [n] in float64, from `project(inputs)` and the output's gradient [..., rows]."""
        gradient = output_gradient.reshape(-1, output_gradient.shape[-1]).float() @ self.up
        if self.cores.ndim == 2:
            return self.cores @ (gradient * projected).sum(0).double()
        return torch.einsum("npq,pq->n", self.cores, (gradient.T @ projected).double())


def low_rank_tangents(tangents: Sequence[Coefficients], sources: Sources) -> LowRankTangents | None:
    """The tangents as low-rank matrices: those of adapters and of `LowRank`; None if one of them is not of low rank."""
    if len(sources.shape) != 2:
        return None
    if all(isinstance(one, LowRank) for one in tangents):
        cores = torch.from_numpy(np.stack([one.core for one in tangents if isinstance(one, LowRank)]))
        up, down = sources.bank("up").float(), sources.bank("down").float()
        return LowRankTangents(up, down, cores.to(sources.device))
    combinations = [one for one in tangents if isinstance(one, LinComb) and not one.directions]
    if len(combinations) < len(tangents) or any(_any(_excess(one), TINY) for one in combinations):
        return None
    used = [i for i in range(len(sources)) if any(_any(one.experts[i]) for one in combinations)]
    factors = [(i, update) for i in used if (update := sources.update(i)) is not None]
    table = [[one.experts[i] for i, _ in factors] for one in combinations]
    if not factors or any(isinstance(weight, PerRow) for row in table for weight in row):
        return None
    sides = [update for _, update in factors if isinstance(update, Factors)]
    if len(sides) < len(factors):
        return None
    ranks = torch.tensor([side.up.shape[1] for side in sides])
    scales = torch.tensor([side.scale for side in sides], dtype=torch.float64)
    diagonals = (torch.tensor(table, dtype=torch.float64) * scales).repeat_interleave(ranks, dim=1)
    up, down = torch.cat([side.up.float() for side in sides], 1), torch.cat([side.down.float() for side in sides])
    return LowRankTangents(up, down, diagonals.to(sources.device))


def dense_derivatives(gradient: Tensor, at: Coefficients, tangents: Sequence[Coefficients], sources: Sources) -> Tensor:
    """⟨gradient, tangent⟩ [n] in float64 for each tangent of a tensor with coefficients `at`, on the gradient's device.

    `gradient` has the tensor's shape. For an elementwise rule, the derivatives with respect to its numbers are computed
    by autograd, a tile at a time.
    """
    if isinstance(at, Consensus):
        numbers = torch.tensor([one.numbers for one in tangents if isinstance(one, Consensus)], dtype=torch.float64)
        return numbers.to(gradient.device) @ _numbers_gradient(gradient, at, sources)
    if isinstance(at, LowRank):
        low_rank = low_rank_tangents(tangents, sources)
        assert low_rank is not None
        product = low_rank.up.T @ gradient.float() @ low_rank.down.T
        return torch.einsum("npq,pq->n", low_rank.cores, product.double())
    products = _InnerProducts(gradient, sources)
    return torch.stack([products.of(one) for one in tangents if isinstance(one, LinComb)])


class _InnerProducts:
    """Inner products, row by row, of one gradient with the base, the task vectors and the directions of a tensor."""

    def __init__(self, gradient: Tensor, sources: Sources) -> None:
        self._gradient, self._sources = gradient, sources
        self._known: dict[Key, Tensor] = {}

    def of(self, tangent: LinComb) -> Tensor:
        experts = enumerate(zip(tangent.experts, self._sources.kinds, strict=True))
        terms: list[tuple[Key, Weight]] = [(i, weight) for i, (weight, kind) in experts if kind != "none"]
        terms += [(f"direction.{j}", weight) for j, weight in enumerate(tangent.directions)]
        excess = _excess(tangent)
        terms += [(None, excess)] if _any(excess, TINY) else []
        total = torch.zeros((), dtype=torch.float64, device=self._gradient.device)
        for key, weight in terms:
            if _any(weight):
                total = total + _weighted(self._rows(key), weight)
        return total

    def _rows(self, key: Key) -> Tensor:
        """⟨gradient, tensor⟩ of each row; a tensor of one axis has one row for each element."""
        if key not in self._known:
            gradient = self._gradient.reshape(len(self._gradient), -1) if self._gradient.ndim else self._gradient
            update = self._sources.update(key) if isinstance(key, int) else None
            if isinstance(update, Factors):
                projected = (gradient.float() @ update.down.float().T) * update.up.float() * update.scale
            else:
                other = self._sources.delta(key) if isinstance(key, int) else self._sources.dense(key).float()
                projected = gradient.float() * other.reshape(gradient.shape)
            self._known[key] = projected.sum(-1, dtype=torch.float64).reshape(-1)
        return self._known[key]


def _weighted(rows: Tensor, weight: Weight) -> Tensor:
    if not isinstance(weight, PerRow):
        return rows.sum() * weight
    return (rows * torch.tensor(weight.values, dtype=torch.float64).to(rows.device)).sum()


def _numbers_gradient(gradient: Tensor, at: Consensus, sources: Sources) -> Tensor:
    """∂/∂numbers of ⟨gradient, base + rule(δ₁ … δ_N)⟩, float64 [k]."""
    kernel = Elementwise(at.rule, sources.kinds)
    numbers = torch.tensor(at.numbers, dtype=torch.float32, device=sources.device)
    updates = [update for i in range(len(sources)) if (update := sources.update(i)) is not None]
    inputs = [sources.base, *updates, *(sources.bank(name) for name in at.bank)]
    total = torch.zeros(len(at.numbers), dtype=torch.float64, device=sources.device)
    for rows in Tiles(gradient):
        flat = [(tile(one, rows) if isinstance(one, Factors) else one[rows]).reshape(-1) for one in inputs]
        words = index_words(rows.start * gradient[:1].numel(), at.words, sources.device)
        with torch.enable_grad():
            leaf = numbers.detach().requires_grad_()
            merged = kernel(leaf, words, flat)
            if merged.requires_grad:
                (part,) = torch.autograd.grad(merged, leaf, gradient[rows].reshape(-1).float())
                total += part.double()
    return total
