"""Dense updates computed from low-rank factors, tile by tile, so that no whole dense copy exists in memory."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from evomerge.kernels.factors import Factors

TILE = {"cpu": 1 << 18, "cuda": 1 << 24}  # elements per tile; on a CPU the fp32 update of a tile fits in a core's cache


class Tiles:
    """Slices of a matrix's rows with about TILE elements each; they do not depend on the number of threads."""

    def __init__(self, matrix: Tensor) -> None:
        self._rows = matrix.shape[0]
        self._step = max(1, TILE.get(matrix.device.type, TILE["cpu"]) // max(1, matrix[:1].numel()))

    def __iter__(self) -> Iterator[slice]:
        return (slice(first, first + self._step) for first in range(0, self._rows, self._step))


def concatenate_factors(factors: Sequence[tuple[float, Factors]]) -> tuple[Tensor, Tensor]:
    """Σ wᵢ·scaleᵢ·upᵢ@downᵢ as one product of two fp32 matrices [rows, Σ rᵢ] and [Σ rᵢ, columns]."""
    up = torch.cat([factor.up.float() * (weight * factor.scale) for weight, factor in factors], dim=1)
    return up, torch.cat([factor.down.float() for _, factor in factors])


def tile(factors: Factors, rows: slice) -> Tensor:
    """The given rows of an adapter's dense update, fp32."""
    return (factors.up[rows].float() @ factors.down.float()) * factors.scale


def dense(factors: Factors) -> Tensor:
    """An adapter's whole dense update in fp32, with the same bits as in a pass over its tiles."""
    out = torch.empty(factors.up.shape[0], factors.down.shape[1], device=factors.up.device)
    for rows in Tiles(out):
        out[rows] = tile(factors, rows)
    return out
