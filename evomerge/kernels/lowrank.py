"""The `lowrank` pass: updates from factors, made tile by tile so that no dense copy of them is ever held."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from evomerge.kernels.factors import Factors

TILE = {"cpu": 1 << 18, "cuda": 1 << 24}  # elements of a tile of rows: on a CPU its fp32 update stays in a core's cache


class Tiles:
    """Slices of a matrix's rows, of about TILE elements each; the same for every thread count."""

    def __init__(self, matrix: Tensor) -> None:
        self._rows = matrix.shape[0]
        self._step = max(1, TILE.get(matrix.device.type, TILE["cpu"]) // max(1, matrix[:1].numel()))

    def __iter__(self) -> Iterator[slice]:
        return (slice(first, first + self._step) for first in range(0, self._rows, self._step))


def joined(factors: Sequence[tuple[float, Factors]]) -> tuple[Tensor, Tensor]:
    """Σ wᵢ·scaleᵢ·upᵢ@downᵢ as one product: fp32 [rows, Σ rᵢ] and [Σ rᵢ, columns]."""
    up = torch.cat([factor.up.float() * (weight * factor.scale) for weight, factor in factors], dim=1)
    return up, torch.cat([factor.down.float() for _, factor in factors])


def tile(factors: Factors, rows: slice) -> Tensor:
    """Some rows of an adapter's dense update, fp32."""
    return (factors.up[rows].float() @ factors.down.float()) * factors.scale


def dense(factors: Factors) -> Tensor:
    """An adapter's whole update, fp32, with the bits that a pass over its tiles sees."""
    out = torch.empty(factors.up.shape[0], factors.down.shape[1], device=factors.up.device)
    for rows in Tiles(out):
        out[rows] = tile(factors, rows)
    return out
