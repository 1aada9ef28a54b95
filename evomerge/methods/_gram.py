"""Gram matrices of one tensor over the models, from which the geometric methods compute their coefficients."""

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels import LinComb, Sources
from evomerge.methods import Setup, State
from evomerge.methods._contract import FloatArray

BLOCK = 1 << 14  # elements per fixed-point sum: it is exact to 48 bits below its largest term and fits in int64
FRACTION = 48
TILE = 1 << 20  # elements converted to float64 at a time; more on an accelerator, where each tile costs kernel launches
DEVICE_TILE = 1 << 24


def of_weights(sources: Sources) -> State:
    """`gram` float64 [1 + experts, 1 + experts]: ⟨θᵢ, θⱼ⟩, the base first."""
    return {"gram": products(weights(sources))}


def of_deltas(sources: Sources) -> State:
    """`gram` float64 [experts, experts]: ⟨δᵢ, δⱼ⟩."""
    return {"gram": products(deltas(sources))}


def of_vectors(setup: Setup) -> State:
    """`gram` of `vectors`."""
    return {"gram": products(vectors(setup))}


def weights(sources: Sources) -> list[Tensor]:
    """Every model's weight, the base first."""
    return [sources.base, *(sources.expert(i) for i in range(len(sources)))]


def deltas(sources: Sources) -> list[Tensor]:
    """Every expert's task vector."""
    return [sources.delta(i) for i in range(len(sources))]


def vectors(setup: Setup) -> list[Tensor]:
    """The vectors to average: the task vectors, or all models' weights if the recipe names no base."""
    return deltas(setup.sources) if setup.has_base else weights(setup.sources)


def gram(setup: Setup) -> FloatArray:
    """The prepared Gram matrix."""
    return np.asarray(setup.state["gram"].numpy())


def norms(gram: FloatArray) -> FloatArray:
    """Euclidean norms from a Gram matrix or a stack of Gram matrices."""
    return np.asarray(np.sqrt(np.clip(np.diagonal(gram, axis1=-2, axis2=-1), 0.0, None)))


def cosines(gram: FloatArray, tiny: float) -> FloatArray:
    """Cosines between the vectors of a Gram matrix, clamped to ±1; a vector of norm ≤ `tiny` is not normalised."""
    lengths = norms(gram)
    lengths = np.where(lengths > tiny, lengths, 1.0)
    with np.errstate(invalid="ignore"):  # ∞/∞ is NaN, which is the intended result
        return np.asarray(np.clip(gram / np.outer(lengths, lengths), -1.0, 1.0))


def length(gram: FloatArray, coefficients: FloatArray) -> float:
    """‖Σ cᵢxᵢ‖, or 0 if it is below the rounding error of the terms in float64."""
    square = float(coefficients @ gram @ coefficients)
    terms = float(np.abs(coefficients) @ norms(gram))
    return square**0.5 if square > 1e-14 * terms * terms else 0.0


def combination(setup: Setup, coefficients: FloatArray) -> LinComb:
    """Σ cᵢvᵢ over `vectors`, added to the base if the recipe names one."""
    values = tuple(float(c) for c in coefficients)
    return LinComb(1.0 - sum(values), values) if setup.has_base else LinComb(values[0], values[1:])


def nan_combination(experts: int) -> LinComb:
    """A combination that is NaN everywhere, for inputs with NaN or infinity; the check of the result reports it."""
    return LinComb(float("nan"), (float("nan"),) * experts)


def products(tensors: list[Tensor]) -> Tensor:
    """⟨xᵢ, xⱼ⟩ in float64 on the host, [n, n]."""
    flat = [tensor.reshape(-1) for tensor in tensors]
    whole = len(flat[0]) // BLOCK * BLOCK
    head = line_products([x[:whole].view(-1, BLOCK) for x in flat])
    tail = line_products([x[whole:].view(1, -1) for x in flat])
    with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN, which is the intended result
        return torch.from_numpy(head.sum(axis=0) + tail[0])


def line_products(tensors: list[Tensor]) -> FloatArray:
    """The inner products within each line of n tensors [lines, length]: float64 [lines, n, n]."""
    lines, width = tensors[0].shape
    out = np.zeros((lines, len(tensors), len(tensors)))
    tile = TILE if tensors[0].device.type == "cpu" else DEVICE_TILE
    step = max(1, tile // max(1, min(width, BLOCK)))
    for first in range(0, lines, step):
        rows = slice(first, first + step)
        for begin in range(0, width, BLOCK):
            parts = [tensor[rows, begin : begin + BLOCK].double() for tensor in tensors]
            tops = [part.abs().amax(dim=1).cpu().numpy() for part in parts]
            for i, left in enumerate(parts):
                for j, right in enumerate(parts[: i + 1]):
                    out[rows, i, j] += _line_sums(left * right, tops[i], tops[j])
    lower = np.tril(out, -1)
    return np.asarray(out + lower.swapaxes(1, 2))


def _line_sums(terms: Tensor, top: FloatArray, other: FloatArray) -> FloatArray:
    """Each line's sum in fixed point: integer sums have the same bits in any order, hence on every device.

    No term exceeds `top` · `other`; the sum is NaN if one of these is not finite.
    """
    exponent = np.frexp(top)[1] + np.frexp(other)[1] - FRACTION
    scale = torch.from_numpy(np.ldexp(1.0, -exponent)).to(terms.device)
    sums = (terms * scale[:, None]).round_().to(torch.int64).sum(dim=1).cpu().numpy()
    return np.where(np.isfinite(top) & np.isfinite(other), np.ldexp(sums.astype(np.float64), exponent), np.nan)
