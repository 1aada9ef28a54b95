"""Core Space (arXiv 2509.17786) in float64 numpy: obvious, not fast."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evomerge.kernels.factors import Factors
from tests.methods.oracles_papers import RANK, Array, isometry


class Core(NamedTuple):
    """δᵢ = left @ cores[i] @ right."""

    left: Array
    right: Array
    cores: list[Array]

    def lifted(self, merged: Array) -> Array:
        return np.asarray(self.left @ merged @ self.right)


def delta(adapter: Factors) -> Array:
    return np.asarray(adapter.scale * (adapter.up.double() @ adapter.down.double()).numpy())


def core_space(adapters: Sequence[Factors]) -> Core:
    """Bases of the stacked factors as they are stored; the scales are in the cores."""
    left = _range(np.concatenate([adapter.up.double().numpy() for adapter in adapters], axis=1))
    right = _range(np.concatenate([adapter.down.double().numpy() for adapter in adapters]).T).T
    return Core(left, right, [left.T @ delta(adapter) @ right.T for adapter in adapters])


def _range(matrix: Array) -> Array:
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    left = left[:, values > RANK * values[0]]
    return np.asarray(left * np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])]))


def trimmed(core: Array, density: float) -> Array:
    if density <= 0:
        return np.zeros_like(core)
    count = max(1, int(density * core.size))
    return np.where(np.abs(core) >= np.sort(np.abs(core), axis=None)[-count], core, 0.0)


def elected(
    cores: Sequence[Array], weights: Sequence[float], normalize: bool, sign: str = "weighted", divisor: str = "weights"
) -> Array:
    """TIES' election and disjoint sum or mean, element by element."""
    out = np.zeros_like(cores[0])
    for place in np.ndindex(*out.shape):
        votes = [float(core[place]) * weight for core, weight in zip(cores, weights, strict=True)]
        voters = votes if sign == "weighted" else [float(core[place]) for core in cores]
        positive = sum(voters) >= 0
        agree = [i for i, vote in enumerate(voters) if (vote > 0 if positive else vote < 0)]
        total = sum(weights[i] for i in agree) if divisor == "weights" else float(len(agree))
        out[place] = sum(votes[i] for i in agree) / (total if normalize and total else 1.0)
    return out


def ties_as_released(cores: Sequence[Array], density: float) -> Array:
    """TIES of the authors' code: no weights, mean of what agrees, ⌊density·n⌋ + 1 elements kept."""
    rows = np.stack([core.ravel() for core in cores])
    size = rows.shape[1]
    kth = np.sort(np.abs(rows), axis=1)[:, [size - int(size * density) - 1]]
    rows = np.where(np.abs(rows) >= kth, rows, 0.0)
    sign = np.sign(rows.sum(axis=0))
    sign = np.where(sign == 0, np.sign(sign.sum()), sign)
    agree = np.where(sign > 0, rows > 0, rows < 0)
    return np.asarray((rows * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)).reshape(cores[0].shape)


def tsv(deltas: Sequence[Array], keep: int) -> list[Array]:
    """TSV-Merge's directions in full space, with at most `keep` singular vectors of each."""
    parts = [np.linalg.svd(one, full_matrices=False) for one in deltas]
    ranks = [min(keep, int((values > RANK * values[0]).sum())) for _, values, _ in parts]
    left = isometry(np.concatenate([part[0][:, :k] for part, k in zip(parts, ranks, strict=True)], axis=1))
    right = isometry(np.concatenate([part[2][:k] for part, k in zip(parts, ranks, strict=True)]))
    ends = np.cumsum([0, *ranks])
    return [
        left[:, first:last] * part[1][:k] @ right[first:last]
        for part, k, first, last in zip(parts, ranks, ends[:-1], ends[1:], strict=True)
    ]
