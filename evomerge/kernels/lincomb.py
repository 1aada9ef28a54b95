"""The `lincomb` pass: a weighted sum of the base, the experts and prepared directions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.kernels.coefficients import LinComb, PerRow, Weight
from evomerge.kernels.factors import Factors
from evomerge.kernels.lowrank import Tiles, concatenate_factors
from evomerge.kernels.runner import Runner
from evomerge.kernels.sources import Key, Sources


@dataclass(frozen=True)
class WeightedSum:
    """Σ numbers[i]·tensors[i] in fp32, plus one last fp32 tensor if `update`.

    Each product is rounded before it is added: a fused multiply-add would give other bytes on some processors.
    """

    update: bool

    def __call__(self, numbers: Tensor, words: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """The sum of one block."""
        terms = tensors[:-1] if self.update else tensors
        total = tensors[-1] if not terms else terms[0].float() * numbers[0]
        for i, term in enumerate(terms[1:], 1):
            total = total + term.float() * numbers[i]
        return total + tensors[-1] if self.update and terms else total


SUM, SUM_WITH_UPDATE = WeightedSum(update=False), WeightedSum(update=True)


def lincomb(sources: Sources, coefficients: LinComb, out: Tensor, runner: Runner) -> Tensor:
    """Write the linear combination into `out`.

    Tensors whose coefficient is zero are not read, so a one-hot combination is exact to the bit. An adapter is
    base + ΔW: its coefficient is added to the base's, and ΔW is computed from its factors in fp32, without a dense copy
    in a lower precision.
    """
    terms, factors = _terms(sources, coefficients)
    weights = [weight for weight, _ in terms]
    if not terms and not factors:
        out.zero_()
        return torch.zeros((), device=out.device)
    if factors:
        tensors = [sources.dense(key) for _, key in terms]
        return _with_factors(out, tensors, _numbers(weights, out, rowwise=False), factors, runner)
    if any(isinstance(weight, PerRow) for weight in weights):
        shape = (out.shape[0], -1)
        rows = [sources.dense(key).reshape(shape) for _, key in terms]
        return runner.run(SUM, out.view(shape), rows, _numbers(weights, out, rowwise=True))
    flat = [sources.flat(key) for _, key in terms]
    return runner.run(SUM, out.view(-1), flat, _numbers(weights, out, rowwise=False))


def _terms(sources: Sources, coefficients: LinComb) -> tuple[list[tuple[Weight, Key]], list[tuple[float, Factors]]]:
    """The dense terms and the low-rank updates whose coefficient is not zero."""
    base = coefficients.base
    dense: list[tuple[Weight, Key]] = []
    factors = []
    rowwise = any(isinstance(weight, PerRow) for weight in (base, *coefficients.experts))
    for index, weight in enumerate(coefficients.experts):
        if weight == 0.0:
            continue
        if rowwise or sources.kinds[index] == "weight":
            dense.append((weight, index))
            continue
        assert not isinstance(base, PerRow) and not isinstance(weight, PerRow)
        base += weight
        update = sources.update(index)
        if isinstance(update, Factors):
            factors.append((weight, update))
    # Where the base cancels, 1 − Σw can leave a rounding error such as 1e-17; reading the base for it would make a
    # one-hot combination inexact.
    if isinstance(base, PerRow) or not abs(base) < 1e-12:  # true for NaN
        dense.insert(0, (base, None))
    directions = enumerate(coefficients.directions)
    return [*dense, *((weight, f"direction.{j}") for j, weight in directions if weight)], factors


def _numbers(weights: Iterable[Weight], out: Tensor, rowwise: bool) -> Tensor:
    """fp32 coefficients: [k], or [k, rows, 1] if one of them is per row."""
    if not rowwise:
        return torch.tensor(list(weights), dtype=torch.float32).to(out.device, non_blocking=True)
    rows = out.shape[0]
    table = [weight.values if isinstance(weight, PerRow) else (weight,) * rows for weight in weights]
    return torch.tensor(table, dtype=torch.float32).unsqueeze(-1).to(out.device, non_blocking=True)


def _with_factors(
    out: Tensor, tensors: list[Tensor], numbers: Tensor, factors: list[tuple[float, Factors]], runner: Runner
) -> Tensor:
    up, down = concatenate_factors(factors)
    flags = []
    for rows in Tiles(out):
        parts = [tensor[rows].reshape(-1) for tensor in tensors]
        flags.append(runner.run(SUM_WITH_UPDATE, out[rows].view(-1), [*parts, (up[rows] @ down).view(-1)], numbers))
    return torch.stack(flags).sum()
