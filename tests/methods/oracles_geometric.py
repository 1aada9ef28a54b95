"""Geometric merge methods in plain float64 numpy, on whole vectors: the formulas as they are published or documented.

`base` None means a merge of models rather than of task vectors. Weights and experts are in the recipe's order.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Sequence[float]


def nuslerp(base: Array | None, experts: Sequence[Array], weights: Weights, axis: int | None = None) -> Array:
    """Slerp with t = w₁/(w₀+w₁); `axis` None takes whole tensors, else one angle for each vector along the axis."""
    total = weights[0] + weights[1]
    t = 0.5 if abs(total) < 1e-6 else weights[1] / total
    first, second = _members(base, experts)
    if axis is None or first.ndim == 1:
        shape, first, second, axis = first.shape, first.ravel(), second.ravel(), 0
    else:
        shape = first.shape
    left, right = (np.maximum(np.sqrt((v * v).sum(axis, keepdims=True)), 1e-7) for v in (first, second))
    cosine = np.clip((first / left * (second / right)).sum(axis, keepdims=True), -1, 1)
    straight = 1 - cosine**2 <= 1e-12
    angle = np.arccos(np.where(straight, 0.0, cosine))
    weight0 = np.where(straight, 1 - t, np.sin((1 - t) * angle) / np.sin(angle))
    weight1 = np.where(straight, t, np.sin(t * angle) / np.sin(angle))
    return _on(base, (weight0 * first + weight1 * second).reshape(shape))


def multislerp(base: Array | None, experts: Sequence[Array], weights: Weights, eps: float = 1e-8) -> Array:
    """The normalised sum of weighted unit vectors at the weighted mean length, by way of its tangent space."""
    flat = np.stack([v.ravel() for v in _members(base, experts)])
    w = np.asarray(weights, dtype=np.float64)
    lengths = np.linalg.norm(flat, axis=1)
    units = flat / (lengths + eps)[:, None]
    total = w @ units
    mean = total / np.linalg.norm(total)
    tangent = w @ (units - (units @ mean)[:, None] * mean)
    size = float(np.linalg.norm(tangent)) + eps
    moved = np.cos(size) * mean + np.sin(size) * tangent / size
    return _on(base, (moved * (w @ lengths)).reshape(experts[0].shape))


def karcher(models: Sequence[Array], weights: Weights, steps: int = 10, tol: float = 1e-5) -> Array:
    """(Σ wᵢ‖xᵢ‖) times the Karcher mean of xᵢ/‖xᵢ‖; models not longer than `tol` count for the length alone."""
    flat = np.stack([x.ravel() for x in models])
    w = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    lengths = np.linalg.norm(flat, axis=1)
    keep = (lengths > tol) & (w > 0)
    if not keep.any():
        return np.zeros(models[0].shape)
    units, p = flat[keep] / lengths[keep, None], w[keep] / w[keep].sum()
    mean = p @ units
    mean = units[0] if np.linalg.norm(mean) < tol else mean / np.linalg.norm(mean)
    for _ in range(steps):
        tangent = np.zeros_like(mean)
        for unit, weight in zip(units, p, strict=True):
            cosine = float(np.clip(unit @ mean, -1, 1))
            angle = float(np.arccos(cosine))
            if tol <= angle < np.pi - 1e-6:
                tangent += weight * angle / np.sin(angle) * (unit - cosine * mean)
        size = float(np.linalg.norm(tangent))
        if size < tol:
            break
        mean = np.cos(size) * mean + np.sin(size) * tangent / size
        mean = mean / np.linalg.norm(mean)
    return np.asarray(float(w @ lengths) * mean).reshape(models[0].shape)


def model_stock(base: Array, experts: Sequence[Array], by_row: bool = False, lam: float = 1.0) -> Array:
    """Model Stock with the mean of pairwise cosines, of the whole tensor or of each row along the last axis."""
    rows = (-1, base.shape[-1]) if by_row else (1, -1)
    origin, models = base.reshape(rows), [x.reshape(rows) for x in experts]
    deltas = [x - origin for x in models]
    pairs = [(a, b) for i, a in enumerate(deltas) for b in deltas[:i]]
    cosines = [
        (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-6) for a, b in pairs
    ]
    cosine = np.mean(cosines, axis=0)[:, None]
    count = len(experts)
    t = lam * count * cosine / (1 + (count - 1) * cosine)
    return np.asarray(t * np.mean(models, axis=0) + (1 - t) * origin).reshape(base.shape)


def geometric_median(deltas: Sequence[Array], priors: Weights, steps: int = 100_000) -> Array:
    """argmin_y Σ pᵢ‖δᵢ − y‖ by Vardi and Zhang's iteration on the vectors; an expert that is the median is exact."""
    rows, p = _distinct(np.stack([delta.ravel() for delta in deltas]), np.asarray(priors, dtype=np.float64))
    for k, row in enumerate(rows):
        others = np.delete(rows - row, k, axis=0)
        weights = np.delete(p, k) / np.linalg.norm(others, axis=1)
        if float(np.linalg.norm(weights @ others)) <= p[k]:
            return row.reshape(deltas[0].shape)
    y = p @ rows
    scale = np.linalg.norm(rows, axis=1).max()
    for _ in range(steps):
        distance = np.linalg.norm(rows - y, axis=1)
        away = distance > 1e-14 * scale
        w = p[away] / distance[away]
        pull = float(np.linalg.norm(w @ (rows[away] - y)))
        stay = min(1.0, float(p[~away].sum()) / pull) if pull else 1.0
        last, y = y, (1 - stay) * (w @ rows[away]) / w.sum() + stay * y
        if np.linalg.norm(y - last) <= 1e-15 * scale:
            break
    return y.reshape(deltas[0].shape)


def total_distance(deltas: Sequence[Array], priors: Weights, y: Array) -> float:
    """Σ pᵢ‖δᵢ − y‖."""
    return sum(p * float(np.linalg.norm(delta - y)) for p, delta in zip(priors, deltas, strict=True))


def nearswap(base: Array, expert: Array, t: float) -> Array:
    """w·expert + (1 − w)·base with w = t/|difference| between 0 and 1."""
    weight = np.clip(t / np.maximum(np.abs(base - expert), 1e-6), 0, 1)
    return np.asarray(weight * expert + (1 - weight) * base)


def arcee_keep(base: Array, expert: Array) -> NDArray[np.bool_]:
    """The elements whose |δ|·KL(softmax of the rows) reaches median + 1.5·(third − first quartile)."""
    p, q = (_softmax(x) + 1e-8 for x in (expert, base))
    importance = np.abs(expert - base) * (p * np.log(p / q)).sum(-1, keepdims=True)
    ordered = np.sort(importance.ravel())
    low, middle, high = (ordered[int(share * (ordered.size - 1))] for share in (0.25, 0.5, 0.75))
    return np.asarray(importance >= middle + 1.5 * (high - low))


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _members(base: Array | None, experts: Sequence[Array]) -> list[Array]:
    return [x if base is None else x - base for x in experts]


def _on(base: Array | None, update: Array) -> Array:
    return update if base is None else base + update


def _distinct(rows: Array, priors: Array) -> tuple[Array, Array]:
    """Equal rows joined with their priors added, and rows of prior zero left out."""
    unique, index = np.unique(rows, axis=0, return_inverse=True)
    p = np.zeros(len(unique))
    np.add.at(p, index.ravel(), priors)
    return unique[p > 0], p[p > 0] / p.sum()
