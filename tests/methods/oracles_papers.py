"""Methods that mergekit lacks, written from their papers and authors' code in float64 numpy: obvious, not fast.

All take task vectors and return what is added to the base, or the directions of which a weighted sum is.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RANK = 1e-9  # singular values below this share of the largest are zero
TAILS = {"main": 1e-4, "vision": 1e-2, "es": 1e-2}


def mod(first: Array, second: Array, threshold: float) -> Array:
    """knovel-eng/mod, `mixture_of_distributions`: returns the merged weights, not a change."""
    low, high = float(np.min(first)), float(np.max(first))
    rank = np.zeros_like(first) if low == high else (first - low) / (high - low)
    return np.where(rank < threshold, first, second)


def magmax(deltas: Sequence[Array]) -> Array:
    """arXiv 2407.06322; a later expert wins ties."""
    rows = np.stack(deltas)[::-1]
    return np.asarray(np.take_along_axis(rows, np.argmax(np.abs(rows), axis=0)[None], axis=0)[0])


def emr_elect(deltas: Sequence[Array]) -> Array:
    """arXiv 2405.17461, "elect": a zero sum is negative."""
    rows = np.stack(deltas)
    sign = np.where(rows.sum(axis=0) > 0, 1.0, -1.0)
    return np.asarray(sign * np.maximum(rows * sign, 0.0).max(axis=0))


def consensus_ta(deltas: Sequence[Array], kappas: Sequence[float], k: float) -> Array:
    """arXiv 2405.07813, without its α."""
    rows, total = np.stack(deltas), np.sum(np.stack(deltas), axis=0)
    needed = [np.abs(row) > kappa * np.abs(total - row) for row, kappa in zip(rows, kappas, strict=True)]
    return np.where(np.sum(needed, axis=0) >= k, total, 0.0)


def isometry(matrix: Array) -> Array:
    """The polar factor over singular values that are not zero."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    keep = values > RANK * values[0] if values.size and values[0] > 0 else np.zeros(len(values), dtype=bool)
    return np.asarray(left[:, keep] @ right[keep])


def tsv_m(deltas: Sequence[Array]) -> list[Array]:
    """arXiv 2412.00081: one direction for each expert."""
    count = len(deltas)
    if deltas[0].ndim != 2:
        return [delta / count for delta in deltas]
    parts = [_top(delta, min(delta.shape) // count) for delta in deltas]
    edges = np.cumsum([0] + [len(values) for _, values, _ in parts])
    if edges[-1] == 0:
        return [np.zeros_like(delta) for delta in deltas]
    left = isometry(np.concatenate([u for u, _, _ in parts], axis=1))
    right = isometry(np.concatenate([v for _, _, v in parts]))
    spans = [slice(first, last) for first, last in pairwise(edges)]
    return [left[:, span] * values @ right[span] for span, (_, values, _) in zip(spans, parts, strict=True)]


def iso_c(deltas: Sequence[Array], over_rank: bool = False) -> Array:
    """arXiv 2502.04959: the flat direction."""
    total = np.sum(np.stack(deltas), axis=0)
    if total.ndim != 2:
        return np.asarray(total / len(deltas))
    values = np.linalg.svd(total, compute_uv=False)
    rank = int(np.sum(values > RANK * values[0]))
    level = values.sum() / (max(rank, 1) if over_rank else len(values))
    return np.asarray(level * isometry(total))


def pcb(deltas: Array, ratio: float, variant: str) -> Array:
    """arXiv 2410.02396 as released: directions [experts, elements]; rows are whole models."""
    tail = TAILS[variant]
    size = _clamp(np.abs(deltas), tail, tail)
    unit = _minmax(size)
    score = np.exp(len(deltas) * unit**2) * _agreement(deltas, np.sign(deltas) * unit, variant)
    scale = _minmax(_clamp(score, 1.0 - ratio, 0.0))
    return np.asarray(scale * np.sign(deltas) * size / np.maximum(scale.sum(axis=0), 1e-12))


def _agreement(raw: Array, unit: Array, variant: str) -> Array:
    if variant == "main":
        return np.asarray(np.tanh(raw * raw.sum(axis=0)))
    if variant == "vision":
        return np.asarray(np.tanh(raw * unit.sum(axis=0)))
    return np.stack([np.tanh(row * unit).sum(axis=0) for row in unit])


def _clamp(rows: Array, low: float, high: float) -> Array:
    size = rows.shape[1]
    ordered = np.sort(rows, axis=1)
    return np.clip(rows, ordered[:, [int(size * low)]], ordered[:, [int(size * (1 - high) - 1)]])


def _minmax(rows: Array) -> Array:
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    return np.asarray((rows - low) / np.where(high > low, high - low, 1.0))


def _top(delta: Array, limit: int) -> tuple[Array, Array, Array]:
    left, values, right = np.linalg.svd(delta, full_matrices=False)
    rank = min(limit, int(np.sum(values > RANK * values[0])))
    return left[:, :rank], values[:rank], right[:rank]
