"""Singular vectors of task vectors in float64, for the methods that merge spectra.

They are computed from an eigendecomposition of the smaller Gram matrix, which takes less than half of the time of an
SVD and resolves singular values down to 1e-8 of the largest. Singular values below RANK_TOLERANCE of the largest count
as zero and their vectors are dropped: an arbitrary basis of the null space would add only noise to a merge.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from evomerge.kernels import Factors, LinComb, Sources
from evomerge.methods import Setup

RANK_TOLERANCE = 1e-6  # relative to the largest singular value; the rounding errors of fp32 experts are smaller
OUTER: Mapping[str, tuple[str, ...]] = {"outer": ("same", "linear")}


class Triplets(NamedTuple):
    """A singular value decomposition left·diag(values)·right, the largest value first."""

    left: Tensor  # [rows, k], orthonormal columns
    values: Tensor  # [k], positive
    right: Tensor  # [k, columns], orthonormal rows


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the block with one torch thread: BLAS and LAPACK split sums by thread, which would change the bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_averaged(setup: Setup) -> bool:
    """Whether the tensor is averaged instead of merged by its spectrum.

    This holds for tensors that are not matrices, for tensors outside the layers if the option `outer` is `linear`, and
    for task vectors with NaN or infinity, which have no singular vectors: their mean keeps the NaN visible.
    """
    if len(setup.sources.shape) != 2 or (setup.depth is None and setup.options["outer"] == "linear"):
        return True
    return not all(bool(setup.sources.delta(i).isfinite().all()) for i in range(len(setup.sources)))


def mean(alphas: list[float]) -> LinComb:
    """The coefficients of θ₀ + Σ αᵢδᵢ / N."""
    count = len(alphas)
    return LinComb(1.0 - sum(alphas) / count, tuple(alpha / count for alpha in alphas))


def triplets(matrix: Tensor, limit: int) -> Triplets:
    """The singular triplets of the at most `limit` largest, non-null singular values of a float64 matrix."""
    if matrix.shape[0] > matrix.shape[1]:
        left, values, right = triplets(matrix.T, limit)
        return Triplets(right.T, values, left.T)
    ascending, vectors = torch.linalg.eigh(matrix @ matrix.T)
    squares = ascending.flip(0)[:limit]
    rank = int((squares > RANK_TOLERANCE**2 * squares[:1]).sum())
    values, left = squares[:rank].sqrt(), vectors.flip(1)[:, :rank]
    return Triplets(left, values, left.T @ matrix / values.unsqueeze(1))


def of_factors(update: Factors, limit: int) -> Triplets:
    """The leading singular triplets of scale·up@down, by QR of the factors: no matrix is larger than they are."""
    up, upper = torch.linalg.qr(update.up.double() * update.scale)
    down, lower = torch.linalg.qr(update.down.double().T)
    core = triplets(upper @ lower.T, limit)
    return Triplets(up @ core.left, core.values, core.right @ down.T)


def of_expert(sources: Sources, index: int, limit: int) -> Triplets:
    """The leading singular triplets of one expert's task vector."""
    update = sources.update(index)
    return of_factors(update, limit) if isinstance(update, Factors) else triplets(sources.delta(index).double(), limit)


def isometry(matrix: Tensor) -> Tensor:
    """The polar factor Σ uᵢvᵢᵀ over the non-null singular triplets, which make it unique."""
    left, _, right = triplets(matrix, min(matrix.shape))
    return left @ right
