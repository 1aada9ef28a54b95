"""The batch plan of a chunk: units of its token trees are packed into rows, and rows into batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evomerge.scoring.engine.tree import (
    ROW_LENGTH,
    CachedPrefix,
    Costs,
    Pair,
    Tokens,
    TokenTree,
    build_trees,
    schedule_trees,
)

Integers = NDArray[np.int64]

ROW_LENGTHS = (64, 96, ROW_LENGTH, 160, 192, 256, 384)
"""The row lengths that are tried for short units; the packing with the lowest cost is taken."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One forward pass over tokens [rows, length], all of which attend to the cached `prefix`.

    The units of a row are in depth-first order, and `ends` holds the end of each token's subtree: token j attends to
    token i of its row if i ≤ j < ends[i]. `states` are the flat indices of the tokens whose logits are needed. Target m
    is token `targets[m]`, whose log-probability at state number `scored[m]` is added to the log-likelihood of pair
    `pairs[m]`. With `keep`, the keys and values of the single row are cached as the prefix of later batches.
    """

    prefix: Tokens
    keep: bool
    tokens: Integers
    positions: Integers
    ends: Integers
    states: Integers
    scored: Integers
    targets: Integers
    pairs: Integers


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Batches in the order in which they must run, and the number of pairs whose log-likelihoods they compute."""

    batches: tuple[Batch, ...]
    pairs: int

    @property
    def tokens(self) -> int:
        """The number of tokens computed, with padding."""
        return sum(batch.tokens.size for batch in self.batches)

    @property
    def largest_batch(self) -> int:
        """The number of tokens of the largest batch, with padding."""
        return max(batch.tokens.size for batch in self.batches)


@dataclass
class _Unit:
    """A unit in depth-first order; `targets` holds (offset, target token, pair) of every scored position."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    targets: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def states(self) -> int:
        """The number of distinct scored positions."""
        return len({offset for offset, _, _ in self.targets})


Rows = list[list[_Unit]]
Path = list[tuple[_Unit, int]]  # for each token from the root on: the unit that computes it, and the offset in it


def plan(pairs: Sequence[Pair], max_length: int, costs: Costs) -> BatchPlan:
    """Batches within the limits of `costs` (or of a single unit), as a pure function of the arguments."""
    root = schedule_trees(build_trees([pair.inputs(max_length) for pair in pairs]), costs)
    return BatchPlan(tuple(_Planner(pairs, costs).batches(root, (), [])), len(pairs))


class _Planner:
    def __init__(self, pairs: Sequence[Pair], costs: Costs) -> None:
        self._pairs, self._costs = pairs, costs

    def batches(self, node: CachedPrefix, prefix: Tokens, path: Path) -> Iterator[Batch]:
        """The batch that computes the node's tokens, if it has any, then those behind it.

        The batches behind are built first, because their pairs may have targets at tokens of the node.
        """
        own = self._laid_out(TokenTree(node.tokens, node.pairs), path)
        extended = prefix + node.tokens
        path = [*path, *((own, offset) for offset in range(len(own.tokens)))]
        units = [self._laid_out(unit, path) for unit in node.units]
        below = [batch for longer in node.extensions for batch in self.batches(longer, extended, path)]
        if own.tokens:
            yield _batch([[own]], prefix, keep=True)
        for rows in self._packed(units, len(extended)):
            yield _batch(rows, extended, keep=False)
        yield from below

    def _packed(self, units: Sequence[_Unit], prefix: int) -> list[Rows]:
        """The cheapest packing over all row lengths; `prefix` is the length of the cached prefix."""
        packings = [list(_packed(units, length, self._costs)) for length in ROW_LENGTHS]
        return min(packings, key=lambda batches: sum(self._cost(rows, prefix) for rows in batches))

    def _cost(self, rows: Rows, prefix: int) -> float:
        length = max(map(_length, rows))
        return self._costs.overhead / 4 + len(rows) * length * (1 + (prefix + length) / self._costs.width)

    def _laid_out(self, tree: TokenTree, path: Path) -> _Unit:
        unit = _Unit()
        self._lay_out(tree, unit, path)
        return unit

    def _lay_out(self, tree: TokenTree, unit: _Unit, path: Path) -> None:
        """Append a tree to a unit, and the targets of its pairs to the units that compute their positions."""
        start = len(unit.tokens)
        unit.tokens += tree.tokens
        unit.positions += range(len(path), len(path) + len(tree.tokens))
        unit.ends += [0] * len(tree.tokens)
        path = [*path, *((unit, offset) for offset in range(start, len(unit.tokens)))]
        for number in tree.pairs:
            continuation = self._pairs[number].continuation
            for (owner, offset), target in zip(path[-len(continuation) :], continuation, strict=True):
                owner.targets.append((offset, target, number))
        for child in tree.children:
            self._lay_out(child, unit, path)
        unit.ends[start : start + len(tree.tokens)] = [len(unit.tokens)] * len(tree.tokens)


def _packed(units: Sequence[_Unit], row_length: int, costs: Costs) -> Iterator[Rows]:
    """Batches of rows, as long as the longest waiting unit or `row_length`; the other units are placed first-fit."""
    waiting = sorted(units, key=lambda unit: -len(unit.tokens))
    while waiting:
        length = max(row_length, len(waiting[0].tokens))
        room = [length] * max(1, min(len(waiting), costs.max_tokens // length))
        rows: Rows = [[] for _ in room]
        states, left = 0, []
        for unit in waiting:
            row = next((i for i, free in enumerate(room) if free >= len(unit.tokens)), None)
            if row is None or (states and states + unit.states > costs.max_states):
                left.append(unit)
                continue
            room[row] -= len(unit.tokens)
            rows[row].append(unit)
            states += unit.states
        yield [row for row in rows if row]
        waiting = left


def _length(row: Sequence[_Unit]) -> int:
    return sum(len(unit.tokens) for unit in row)


def _batch(rows: Rows, prefix: Tokens, keep: bool) -> Batch:
    length = max(map(_length, rows))
    tokens, positions = np.zeros((2, len(rows), length), dtype=np.int64)
    ends = np.tile(np.arange(1, length + 1), (len(rows), 1))  # a padding token attends to itself
    found: list[tuple[int, int, int]] = []
    for number, row in enumerate(rows):
        start = 0
        for unit in row:
            stop = start + len(unit.tokens)
            tokens[number, start:stop] = unit.tokens
            positions[number, start:stop] = unit.positions
            ends[number, start:stop] = np.add(unit.ends, start)
            found += [(number * length + start + offset, target, pair) for offset, target, pair in unit.targets]
            start = stop
    places, targets, pairs = np.array(found, dtype=np.int64).reshape(-1, 3).T
    states, scored = np.unique(places, return_inverse=True)
    return Batch(prefix, keep, tokens, positions, ends, states, scored, targets, pairs)
