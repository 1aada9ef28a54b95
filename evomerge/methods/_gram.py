"""Inner products of a tensor's models: all that the geometric methods need to know of the weights."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.kernels import LinComb, Sources
from evomerge.methods import Setup, State

Matrix = NDArray[np.float64]
BLOCK = 1 << 14  # elements whose sum is exact to 48 bits below its largest term, and fits in int64
FRACTION = 48
TILE = 1 << 20  # elements in float64 at a time; more on an accelerator, where each tile costs a launch
DEVICE_TILE = 1 << 24


def of_weights(sources: Sources) -> State:
    """`gram` float64 [1 + experts, 1 + experts]: ⟨θᵢ, θⱼ⟩, the base first."""
    return {"gram": products(weights(sources))}


def of_deltas(sources: Sources) -> State:
    """`gram` float64 [experts, experts]: ⟨δᵢ, δⱼ⟩."""
    return {"gram": products(deltas(sources))}


def of_members(setup: Setup) -> State:
    """`gram` of the task vectors where the recipe names a base, of the models' weights where it names none."""
    return {"gram": products(members(setup))}


def weights(sources: Sources) -> list[Tensor]:
    """Every model's weight, the base first."""
    return [sources.base, *(sources.expert(i) for i in range(len(sources)))]


def deltas(sources: Sources) -> list[Tensor]:
    """Every expert's task vector."""
    return [sources.delta(i) for i in range(len(sources))]


def members(setup: Setup) -> list[Tensor]:
    """What is averaged: task vectors, or weights in a recipe without a base, where the first model stands as base."""
    return deltas(setup.sources) if setup.based else weights(setup.sources)


def gram(setup: Setup) -> Matrix:
    """The prepared Gram matrix."""
    return np.asarray(setup.state["gram"].numpy())


def norms(gram: Matrix) -> Matrix:
    """Euclidean norms from a Gram matrix, or from a stack of them."""
    return np.asarray(np.sqrt(np.clip(np.diagonal(gram, axis1=-2, axis2=-1), 0.0, None)))


def cosines(gram: Matrix, tiny: float) -> Matrix:
    """Cosines between the vectors of a Gram matrix, clamped to ±1; a vector of norm up to `tiny` is taken as it is."""
    lengths = norms(gram)
    lengths = np.where(lengths > tiny, lengths, 1.0)
    with np.errstate(invalid="ignore"):  # ∞/∞ is NaN, which is what must come out
        return np.asarray(np.clip(gram / np.outer(lengths, lengths), -1.0, 1.0))


def length(gram: Matrix, coefficients: Matrix) -> float:
    """‖Σ cᵢxᵢ‖; what cancels below float64's resolution of the terms is 0."""
    square = float(coefficients @ gram @ coefficients)
    terms = float(np.abs(coefficients) @ norms(gram))
    return square**0.5 if square > 1e-14 * terms * terms else 0.0


def combination(setup: Setup, coefficients: Matrix) -> LinComb:
    """Σ cᵢ·(what `members` gives), on top of the base where the recipe names one."""
    given = tuple(float(c) for c in coefficients)
    return LinComb(1.0 - sum(given), given) if setup.based else LinComb(given[0], given[1:])


def not_finite(experts: int) -> LinComb:
    """What an input with NaN or infinity gives: a tensor that no check lets pass."""
    return LinComb(float("nan"), (float("nan"),) * experts)


def products(tensors: list[Tensor]) -> Tensor:
    """⟨xᵢ, xⱼ⟩ in float64 on the host, [n, n]."""
    flat = [tensor.reshape(-1) for tensor in tensors]
    whole = len(flat[0]) // BLOCK * BLOCK
    head = line_products([x[:whole].view(-1, BLOCK) for x in flat])
    tail = line_products([x[whole:].view(1, -1) for x in flat])
    with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN, which is what must come out
        return torch.from_numpy(head.sum(axis=0) + tail[0])


def line_products(tensors: list[Tensor]) -> Matrix:
    """For [lines, length] tensors, the inner products within each line: float64 [lines, n, n]."""
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


def _line_sums(terms: Tensor, top: Matrix, other: Matrix) -> Matrix:
    """Each line's sum in fixed point: integers add up to the same bits in any order, so on every device.

    No term is above `top` · `other`; NaN where one of those is not finite.
    """
    exponent = np.frexp(top)[1] + np.frexp(other)[1] - FRACTION
    scale = torch.from_numpy(np.ldexp(1.0, -exponent)).to(terms.device)
    sums = (terms * scale[:, None]).round_().to(torch.int64).sum(dim=1).cpu().numpy()
    return np.where(np.isfinite(top) & np.isfinite(other), np.ldexp(sums.astype(np.float64), exponent), np.nan)
