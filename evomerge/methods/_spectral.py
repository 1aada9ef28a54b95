"""Singular vectors of task vectors, in float64, for the methods that merge spectra.

They come from an eigendecomposition of the smaller Gram matrix: less than half of an SVD's work, and it resolves
singular values down to 1e-8 of the largest. Those below CUT of it are taken for zero, with their vectors: what an
arbitrary basis of a null space would add to a merge is noise.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from evomerge.kernels import Factors, LinComb, Sources
from evomerge.methods import Setup

CUT = 1e-6  # relative: the rounding of fp32 experts lies below it
OUTER: Mapping[str, tuple[str, ...]] = {"outer": ("same", "linear")}


class Triplets(NamedTuple):
    """left·diag(values)·right, the largest value first."""

    left: Tensor  # [rows, k], orthonormal columns
    values: Tensor  # [k], above zero
    right: Tensor  # [k, columns], orthonormal rows


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS and LAPACK split sums by thread: one thread gives every machine's bits to the next one of its kind."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def averaged(setup: Setup) -> bool:
    """Tensors that have no spectrum to merge: not a matrix, outside the layers where the option says so, or broken.

    NaN and infinity have no singular vectors; their mean shows them.
    """
    if len(setup.sources.shape) != 2 or (setup.depth is None and setup.options["outer"] == "linear"):
        return True
    return not all(bool(setup.sources.delta(i).isfinite().all()) for i in range(len(setup.sources)))


def mean(alphas: list[float]) -> LinComb:
    """θ₀ + Σ αᵢδᵢ / N."""
    count = len(alphas)
    return LinComb(1.0 - sum(alphas) / count, tuple(alpha / count for alpha in alphas))


def triplets(matrix: Tensor, limit: int) -> Triplets:
    """The largest singular triplets of a float64 matrix, at most `limit`, without null ones."""
    if matrix.shape[0] > matrix.shape[1]:
        left, values, right = triplets(matrix.T, limit)
        return Triplets(right.T, values, left.T)
    ascending, vectors = torch.linalg.eigh(matrix @ matrix.T)
    squares = ascending.flip(0)[:limit]
    rank = int((squares > CUT**2 * squares[:1]).sum())
    values, left = squares[:rank].sqrt(), vectors.flip(1)[:, :rank]
    return Triplets(left, values, left.T @ matrix / values.unsqueeze(1))


def of_factors(update: Factors, limit: int) -> Triplets:
    """The same of scale·up@down, through QR of its factors: no matrix larger than those."""
    up, upper = torch.linalg.qr(update.up.double() * update.scale)
    down, lower = torch.linalg.qr(update.down.double().T)
    core = triplets(upper @ lower.T, limit)
    return Triplets(up @ core.left, core.values, core.right @ down.T)


def of_expert(sources: Sources, index: int, limit: int) -> Triplets:
    """The singular triplets of one expert's task vector."""
    update = sources.update(index)
    return of_factors(update, limit) if isinstance(update, Factors) else triplets(sources.delta(index).double(), limit)


def isometry(matrix: Tensor) -> Tensor:
    """The polar factor Σ uᵢvᵢᵀ over the singular triplets that are not null, which makes it unique."""
    left, _, right = triplets(matrix, min(matrix.shape))
    return left @ right
