"""Rebuilds the tensors of a merge from frozen numbers, with torch alone: this file is copied into a submission pack.

Every tensor is computed in fp32 and rounded once when it is written. The numbers of an entry were computed by evomerge,
which wrote them beside this file; the sums, votes and low-rank products here give its bytes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TILE = {"cpu": 1 << 18, "cuda": 1 << 24}  # elements of a tile, the same as in evomerge: a product's bytes depend on it
FIRST, SECOND = 0x21F0AAAD, 0xD35A2D97 - (1 << 32)  # the mixer lowbias32

Entry = Mapping[str, Any]
Read = Callable[[int, str], Tensor]  # number of a model and name in its files → tensor on the device


@dataclass(frozen=True)
class Factors:
    """A low-rank update of the base: scale · up @ down."""

    up: Tensor
    down: Tensor
    scale: float


Update = Tensor | Factors | None  # an expert's whole tensor, its update of the base, or the base itself


def rebuild(entry: Entry, read: Read, shipped: Callable[[str], Tensor], dtype: torch.dtype) -> Tensor:
    """One merged tensor of this dtype, from the entry of the table, the models' files and the shipped tensors."""
    if "stored" in entry:
        return shipped(entry["stored"]).to(dtype)
    base = read(0, entry["base"])
    out = torch.empty(base.shape, dtype=dtype, device=base.device)
    if "factors" in entry:
        update = Factors(shipped(entry["factors"] + ".up"), shipped(entry["factors"] + ".down"), 1.0)
        for rows in _tiles(out):
            out[rows] = _added(base[rows].float(), _tile(update, rows).view_as(out[rows]))
        return out
    updates = [_update(given, read) for given in entry["experts"]]
    if "sum" in entry:
        _write_sum(base, updates, entry["sum"], out)
    else:
        _write_vote(base, updates, entry["vote"], out)
    return out


def _update(given: Mapping[str, Any] | None, read: Read) -> Update:
    if given is None:
        return None
    if "key" in given:
        return read(given["model"], given["key"])
    up, down = read(given["model"], given["up"]), read(given["model"], given["down"])
    return Factors(down.T, up.T, given["scale"]) if given["transposed"] else Factors(up, down, given["scale"])


def _tiles(out: Tensor) -> Iterator[slice]:
    step = max(1, TILE.get(out.device.type, TILE["cpu"]) // max(1, out[:1].numel()))
    return (slice(first, first + step) for first in range(0, out.shape[0], step))


def _tile(factors: Factors, rows: slice) -> Tensor:
    return (factors.up[rows].float() @ factors.down.float()) * factors.scale


def _added(base: Tensor, update: Tensor) -> Tensor:
    return torch.where(update == 0, base, update + base)  # a plain sum would turn −0.0 into 0.0


def _write_sum(base: Tensor, updates: Sequence[Update], weights: Sequence[float], out: Tensor) -> None:
    """Σ weights · tensors; a tensor of weight 0 is not read, and all low-rank updates are one product."""
    of_base, *of_experts = weights
    terms: list[tuple[float, Tensor]] = []
    factors: list[tuple[float, Factors]] = []
    for weight, update in zip(of_experts, updates, strict=True):
        if weight == 0.0:
            continue
        if isinstance(update, Tensor):
            terms.append((weight, update))
            continue
        of_base += weight
        if update is not None:
            factors.append((weight, update))
    if not abs(of_base) < 1e-12:
        terms.insert(0, (of_base, base))
    if not terms and not factors:
        out.zero_()
        return
    numbers = torch.tensor([weight for weight, _ in terms], dtype=torch.float32, device=out.device)
    product = _concatenated(factors) if factors else None
    for rows in _tiles(out):
        total: Tensor | None = None
        for number, (_, tensor) in zip(numbers, terms, strict=True):
            term = tensor[rows].float() * number
            total = term if total is None else total + term
        if product is not None:
            update_rows = product[0][rows] @ product[1]
            total = update_rows if total is None else total + update_rows
        assert total is not None
        out[rows] = total


def _concatenated(factors: Sequence[tuple[float, Factors]]) -> tuple[Tensor, Tensor]:
    up = torch.cat([factor.up.float() * (weight * factor.scale) for weight, factor in factors], dim=1)
    return up, torch.cat([factor.down.float() for _, factor in factors])


def _write_vote(base: Tensor, updates: Sequence[Update], vote: Mapping[str, Any], out: Tensor) -> None:
    numbers = torch.tensor(vote["numbers"], dtype=torch.float32, device=out.device)
    words = torch.tensor(vote["words"], dtype=torch.int32, device=out.device)
    for rows in _tiles(out):
        start = rows.start * out[:1].numel()
        from_base = base[rows].reshape(-1).float()
        deltas = [_delta(update, from_base, rows) for update in updates]
        out[rows] = _added(from_base, _voted(deltas, vote, numbers, words, start)).view(out[rows].shape)


def _delta(update: Update, base: Tensor, rows: slice) -> Tensor:
    if update is None:
        return torch.zeros_like(base)
    if isinstance(update, Factors):
        return _tile(update, rows).reshape(-1)
    return update[rows].reshape(-1).float() - base


def _voted(deltas: Sequence[Tensor], vote: Mapping[str, Any], numbers: Tensor, words: Tensor, start: int) -> Tensor:
    """The update of some elements by the TIES family: mask, scale, elect a sign, average those that agree.

    `numbers` are λ, then the weights, scales, lower and upper bounds of all experts; `words` the keys of the masks.
    """
    count = len(deltas)
    lam, weights, scales = numbers[0], numbers[1:], numbers[1 + count :]
    masked = [delta * scales[i] for i, delta in enumerate(_masked(deltas, vote["kind"], numbers, words, start))]
    votes = [delta * weights[i] for i, delta in enumerate(masked)]
    if not vote["elect"]:
        return _total(votes) * lam
    voters = votes if vote["sign"] == "weighted" else masked
    positive = _total(voters) >= 0
    agree = [torch.where(positive, voter > 0, voter < 0) for voter in voters]
    total = _total([torch.where(agree[i], each, each * 0.0) for i, each in enumerate(votes)])
    if vote["normalize"]:
        one = torch.ones_like(lam)
        counted = [weights[i] if vote["divisor"] == "weights" else one for i in range(count)]
        divisor = _total([torch.where(agree[i], number, 0.0) for i, number in enumerate(counted)])
        total = total / torch.where(divisor == 0, 1.0, divisor)
    return total * lam


def _masked(deltas: Sequence[Tensor], kind: str, numbers: Tensor, words: Tensor, start: int) -> Sequence[Tensor]:
    count = len(deltas)
    low, high = numbers[1 + 2 * count :], numbers[1 + 3 * count :]
    if kind == "keep":
        return deltas
    if kind == "trim":
        return [torch.where(delta.abs() < low[i], 0.0, delta) for i, delta in enumerate(deltas)]
    if kind == "band":
        inside = [(delta.abs() >= low[i]) & (delta.abs() <= high[i]) for i, delta in enumerate(deltas)]
    else:
        first, high_bits = (start + (1 << 31)) % (1 << 32) - (1 << 31), start >> 32
        index = torch.arange(deltas[0].numel(), dtype=torch.int32, device=deltas[0].device) + first
        mixed = _mix(index ^ words[0])
        inside = [_uniform24(mixed, words[1 + i], high_bits) < words[1 + count + i] for i in range(count)]
    return [torch.where(inside[i], delta, delta * 0.0) for i, delta in enumerate(deltas)]


def _mix(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 16) & 0xFFFF)) * FIRST
    x = (x ^ ((x >> 15) & 0x1FFFF)) * SECOND
    return x ^ ((x >> 15) & 0x1FFFF)


def _uniform24(mixed: Tensor, key: Tensor, high: int) -> Tensor:
    x = (mixed ^ key ^ high) * FIRST
    return (((x ^ ((x >> 15) & 0x1FFFF)) * SECOND) >> 8) & 0xFFFFFF


def _total(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
