"""Reads a family once, tensor by tensor: the numbers of each model, and the inner products of the task vectors.

The products of low-rank factors are computed from matrices of their ranks. Dense tensors are read in blocks of rows, of
large ones only some blocks, evenly spaced. The memory that is needed does not depend on the size of the model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.audit.values import FLOATS, Values, values_of
from evomerge.kernels import Factors, Update
from evomerge.models import Family, layer_of
from evomerge.recipes import ModelRef

Matrix = NDArray[np.float64]
BLOCK = 1 << 18  # elements of every model in float32 at a time
READ = 1 << 22  # elements of a dense tensor that enter the inner products; four million give a cosine to three digits


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """One tensor in the base and in every expert.

    `gram` holds the inner products of the base's tensor (index 0) and of the task vectors (1, 2, …), scaled to the
    whole tensor. `kinds` says how each expert changes the tensor: `none` (it does not name it), `factors` or `weight`.
    `changed` says whether the expert differs from the base, when both are rounded to the coarser dtype. `values` are
    those of the base, then of each expert: of a dense weight, or of both factors.
    """

    name: str
    shape: tuple[int, ...]
    kinds: tuple[str, ...]
    changed: tuple[bool, ...]
    gram: Matrix
    values: tuple[tuple[Values, ...], ...]

    @property
    def is_matrix(self) -> bool:
        """Whether the tensor is a matrix, not a bias or the weights of a norm."""
        return len(self.shape) > 1

    @property
    def layer(self) -> tuple[str, int] | None:
        """Its stack and layer, None for an outer tensor."""
        return layer_of(self.name)

    @property
    def series(self) -> str:
        """The name without the layer's number, the same for this tensor in every layer."""
        place = self.layer
        return f"{place[0]}.*{self.name.removeprefix(f'{place[0]}.{place[1]}')}" if place else self.name

    @property
    def norms(self) -> Matrix:
        """Norms of the base's tensor and of the task vectors."""
        return np.asarray(np.sqrt(np.clip(np.diag(self.gram), 0.0, None)))

    def is_sound(self, model: int) -> bool:
        """Whether all values of a model (0 is the base) are finite."""
        return all(values.is_finite for values in self.values[model])


def measure(family: Family, refs: Sequence[ModelRef]) -> Iterator[TensorStatistics]:
    """The statistics of every tensor of the base, for these experts."""
    for name in family.base.destination:
        updates = [family.update(ref, name) for ref in refs]
        yield _statistics(name, family.base.tensor(name), updates)


def _statistics(name: str, base: Tensor, updates: Sequence[Update]) -> TensorStatistics:
    gram, changed = _products(base, updates)
    kinds = tuple("none" if u is None else "factors" if isinstance(u, Factors) else "weight" for u in updates)
    values = ((values_of(base),), *(_values(update) for update in updates))
    return TensorStatistics(name, tuple(base.shape), kinds, changed, gram, values)


def _values(update: Update) -> tuple[Values, ...]:
    if isinstance(update, Factors):
        return values_of(update.up), values_of(update.down)
    return () if update is None else (values_of(update),)


def _products(base: Tensor, updates: Sequence[Update]) -> tuple[Matrix, tuple[bool, ...]]:
    """The Gram matrix, and which updates change the base."""
    if not any(isinstance(update, Tensor) for update in updates):
        return _low_rank_products(base, updates), tuple(_is_change(update) for update in updates)
    return _dense_products(base, updates)


def _is_change(update: Update) -> bool:
    if not isinstance(update, Factors):
        return False
    return bool(update.scale and update.up.float().any() and update.down.float().any())


def _low_rank_products(base: Tensor, updates: Sequence[Update]) -> Matrix:
    """⟨sBA, s'B'A'⟩ = ss' Σ (BᵀB') ∘ (AA'ᵀ), and ⟨W, sBA⟩ = s Σ (WAᵀ) ∘ B; the base in blocks of rows."""
    factors = {i: _clean(u) for i, u in enumerate(updates, 1) if isinstance(u, Factors)}
    gram = np.zeros((len(updates) + 1, len(updates) + 1))
    for i, j in combinations_with_replacement(factors, 2):
        one, other = factors[i], factors[j]
        inner = ((one.up.T @ other.up) * (one.down @ other.down.T)).sum()
        gram[i, j] = gram[j, i] = float(inner) * one.scale * other.scale
    rows, scale = _rows(base)
    for start, stop in rows:
        block = _flat(base)[start:stop].float().nan_to_num(0.0, 0.0, 0.0)
        gram[0, 0] += scale * float(block.double().square().sum())
        for i, factor in factors.items():
            inner = ((block @ factor.down.T.float()) * factor.up[start:stop].float()).sum(dtype=torch.float64)
            gram[0, i] += scale * float(inner) * factor.scale
    gram[1:, 0] = gram[0, 1:]
    return gram


def _clean(factors: Factors) -> Factors:
    """The factors in float64, zero where they are not finite."""
    up, down = (side.double().nan_to_num(0.0, 0.0, 0.0) for side in (factors.up, factors.down))
    return Factors(up, down, factors.scale)


def _dense_products(base: Tensor, updates: Sequence[Update]) -> tuple[Matrix, tuple[bool, ...]]:
    flat = _flat(base)
    coarse = [_rounded_to(base, update) for update in updates]
    changed = [_is_change(update) for update in updates]
    gram = np.zeros((len(updates) + 1, len(updates) + 1))
    rows, scale = _rows(base)
    for start, stop in rows:
        block = flat[start:stop]
        deltas = [block.float().flatten()]
        for update, dtype in zip(updates, coarse, strict=True):
            deltas.append(_block_delta(update, block, dtype, start, stop))
        stack = torch.stack(deltas).nan_to_num_(0.0, 0.0, 0.0)
        gram += scale * (stack @ stack.T).double().numpy()
    for place, (update, dtype) in enumerate(zip(updates, coarse, strict=True)):
        changed[place] = changed[place] or (isinstance(update, Tensor) and not _equal(base, update, dtype))
    return gram, tuple(changed)


def _block_delta(update: Update, base: Tensor, dtype: torch.dtype | None, start: int, stop: int) -> Tensor:
    if isinstance(update, Factors):
        return (update.scale * (update.up[start:stop].float() @ update.down.float())).flatten()
    if update is None:
        return torch.zeros(base.numel())
    rows = _flat(update)[start:stop]
    rounded = base.to(dtype).float() if dtype else base.float()
    return rows.float().sub(rounded).flatten()


def _flat(tensor: Tensor) -> Tensor:
    """The tensor as rows, of which a vector or a number is one."""
    return tensor.reshape(tensor.shape[0], -1) if tensor.dim() > 1 else tensor.reshape(1, -1)


def _rounded_to(base: Tensor, update: Update) -> torch.dtype | None:
    """The dtype of an expert that is stored more coarsely than the base: its rounding is no fine-tuning."""
    if not isinstance(update, Tensor) or update.dtype not in FLOATS:
        return None
    return update.dtype if torch.finfo(update.dtype).eps > torch.finfo(base.dtype).eps else None


def _equal(base: Tensor, update: Tensor, dtype: torch.dtype | None) -> bool:
    """Whether an expert's tensor is the base's, block by block, so that the first difference ends it."""
    parts = zip(base.reshape(-1).split(BLOCK), update.reshape(-1).split(BLOCK), strict=True)
    return all(torch.equal(one.to(dtype or other.dtype), other) for one, other in parts)


def _rows(base: Tensor) -> tuple[list[tuple[int, int]], float]:
    """The blocks of rows that are read, evenly spaced over a large tensor, and all elements by those that are read."""
    count = base.shape[0] if base.dim() > 1 else 1
    step = max(1, BLOCK * count // max(base.numel(), 1))
    blocks = [(start, min(start + step, count)) for start in range(0, count, step)]
    stride = max(1, base.numel() // READ)
    chosen = blocks[::stride]
    return chosen, count / sum(stop - start for start, stop in chosen)
