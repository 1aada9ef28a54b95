"""float64 numpy oracles of the sparsifying methods, from their equations as mergekit 0.1.5 reads them.

One value of `weights`, `densities` … per expert; every function returns the merged tensor. Nothing of the package is
used but the names of a mask's random words, which are part of a recipe's meaning.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.masks import mask_keys

Array = NDArray[np.float64]
Sparsify = Callable[[int, Array], Array]


def l1_rescaled(delta: Array, masked: Array) -> Array:
    before, after = np.abs(delta).sum(), np.abs(masked).sum()
    return masked if before < 1e-7 or after < 1e-7 else masked * (before / after)


def window(delta: Array, density: float, gamma: float) -> Array:
    """1 where kept: positions [lo, lo + keep) of the magnitudes in ascending order."""
    keep, top = int(density * delta.size), int(gamma * delta.size)
    low = max(0, delta.size - keep - top)
    order = np.argsort(np.abs(delta).ravel(), kind="stable")
    mask = np.zeros(delta.size)
    mask[order[low : low + keep]] = 1
    return mask.reshape(delta.shape)


def rank_ratios(delta: Array) -> Array:
    """rank/(n − 1) along the second axis, or over the whole of a vector; 0 for the smallest magnitude, ½ if alone."""
    rows = np.abs(delta if delta.ndim > 1 else delta[None])
    count = rows.shape[1]
    ranks = np.argsort(np.argsort(rows, axis=1, kind="stable"), axis=1, kind="stable")
    return (ranks / (count - 1) if count > 1 else np.full(rows.shape, 0.5)).reshape(delta.shape)


def della_probabilities(delta: Array, density: float, epsilon: float) -> Array:
    return (density - epsilon) + 2 * epsilon * rank_ratios(delta)


def vote(
    base: Array,
    experts: Sequence[Array],
    weights: Sequence[float],
    sparsify: Sparsify,
    *,
    elect: bool,
    normalize: bool,
    lam: float = 1.0,
) -> Array:
    """Task arithmetic, or TIES' election on weighted task vectors."""
    deltas = np.stack([sparsify(i, x - base) * weights[i] for i, x in enumerate(experts)])
    shares = np.asarray(weights).reshape(-1, *[1] * base.ndim) * np.ones(deltas.shape)
    if elect:
        sign = np.where(deltas.sum(0) >= 0, 1.0, -1.0)
        agrees = np.sign(deltas) == sign
        deltas, shares = deltas * agrees, shares * agrees
    mixed, divisor = deltas.sum(0), shares.sum(0)
    guard = divisor == 0 if elect else np.abs(divisor) < 1e-8
    return np.asarray(base + lam * (mixed / np.where(guard, 1.0, divisor) if normalize else mixed))


def sce(base: Array, experts: Sequence[Array], select_topk: float) -> Array:
    deltas = np.stack([x - base for x in experts])
    if select_topk < 1:
        variance = deltas.var(0).ravel()
        keep = int(np.float32(np.count_nonzero(variance)) * np.float32(select_topk)) if select_topk > 0 else 0
        mask = np.zeros(base.size)
        mask[np.argsort(-variance, kind="stable")[:keep]] = 1
        deltas = deltas * mask.reshape(base.shape)
    sign = np.where(deltas.sum(0) >= 0, 1.0, -1.0)
    weights = (deltas**2).reshape(len(experts), -1).mean(1)
    weights = np.full(len(experts), 1 / len(experts)) if weights.sum() < 1e-6 else weights / weights.sum()
    shares = weights.reshape(-1, *[1] * base.ndim) * (np.sign(deltas) == sign)
    return np.asarray(base + (deltas * shares).sum(0) / np.maximum(shares.sum(0), 1e-6))


def ram(base: Array, experts: Sequence[Array], epsilon: float, r: float = 0.0, alpha: float = 0.0) -> Array:
    """RAM; with `r` RAM+."""
    deltas = np.stack([(x - base).ravel() for x in experts])
    changed = np.abs(deltas) > epsilon
    count = changed.sum(0)
    factors = []
    for own in changed:
        both, alone = (own & (count > 1)).sum(), (own & (count == 1)).sum()
        floor = max(float(alone), epsilon)
        ratio = both / floor if floor > 0 else math.inf if both else 0.0
        factors.append(1 + r * min(ratio, alpha))
    kept = deltas * changed
    single = (kept * np.asarray(factors)[:, None] * (count == 1)).sum(0)
    update = single + (kept * (count > 1)).sum(0) / np.maximum(count, 1)
    return np.asarray(base + update.reshape(base.shape))


def mix32(word: int) -> int:
    """lowbias32 with plain integers."""
    word = ((word ^ (word >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    word = ((word ^ (word >> 15)) * 0xD35A2D97) & 0xFFFFFFFF
    return word ^ (word >> 15)


def uniforms(size: int, seed: int, tensor: str, expert: int) -> Array:
    """The elements' 24-bit numbers as fractions."""
    first, *rest = (key & 0xFFFFFFFF for key in mask_keys(seed, tensor, expert + 1))
    return np.array([second_round(mix32(j ^ first) ^ rest[expert]) / 2**24 for j in range(size)])


def second_round(word: int) -> int:
    """lowbias32 without its first and last shift; the upper 24 bits."""
    word = (word * 0x21F0AAAD) & 0xFFFFFFFF
    return (((word ^ (word >> 15)) * 0xD35A2D97) & 0xFFFFFFFF) >> 8


def della_mask(delta: Array, density: float, epsilon: float, seed: int, tensor: str, expert: int) -> NDArray[np.bool_]:
    """A coin of probability rank/(n − 1), then a draw of density ± epsilon."""
    coins = uniforms(delta.size, seed, f"{tensor}\0coins", expert) < rank_ratios(delta).ravel()
    share = np.where(coins, density + epsilon, density - epsilon)
    return np.asarray((uniforms(delta.size, seed, tensor, expert) < share).reshape(delta.shape))
