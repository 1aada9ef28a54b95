"""The batch plan of a chunk: units of its token trees packed into rows, and rows into batches of one forward each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evomerge.scoring.engine.tree import ROW, Costs, Node, Pair, Tokens, Trunk, build_trees, schedule_trees

Integers = NDArray[np.int64]

ROWS = (64, 96, ROW, 160, 192, 256, 384)
"""Row lengths that are tried for short units; the one that leaves the fewest gaps is taken."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One forward pass over `rows × length` tokens, all of which see the cached `prefix`.

    Token i of a row sees token j where j ≤ i < ends[j]: units lie in a row in depth-first order, and `ends` says
    where the subtree of a token ends. `states` are the flat places whose logits are needed; scored pair m wants the
    probability of `targets[m]` at state number `scored[m]` and adds it to log-likelihood number `pairs[m]`.
    `keep` asks for the keys and values of a single row, to be the prefix of later batches.
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
    """Batches in the order in which they must run, for `pairs` log-likelihoods."""

    batches: tuple[Batch, ...]
    pairs: int

    @property
    def tokens(self) -> int:
        """Tokens computed, padding included."""
        return sum(batch.tokens.size for batch in self.batches)

    @property
    def widest(self) -> int:
        """Tokens of the largest batch."""
        return max(batch.tokens.size for batch in self.batches)


@dataclass
class _Unit:
    """A unit laid out: its tokens in depth-first order, and (offset, target, pair) for each scored token."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    marks: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def states(self) -> int:
        return len({offset for offset, _, _ in self.marks})


Rows = list[list[_Unit]]
Path = list[tuple[_Unit, int]]  # for every token from the beginning: who computes it, and where


def plan(pairs: Sequence[Pair], max_length: int, costs: Costs) -> BatchPlan:
    """Batches of at most `costs.most` tokens (or one request), longest first; a pure function of its arguments."""
    trunk = schedule_trees(build_trees([pair.inputs(max_length) for pair in pairs]), costs)
    return BatchPlan(tuple(_Planner(pairs, costs).batches(trunk, (), [])), len(pairs))


class _Planner:
    def __init__(self, pairs: Sequence[Pair], costs: Costs) -> None:
        self._pairs, self._costs = pairs, costs

    def batches(self, trunk: Trunk, prefix: Tokens, path: Path) -> Iterator[Batch]:
        """The trunk itself where it has tokens, then what lies below: marks may still fall on the trunk until then."""
        own = self._laid_out(Node(trunk.edge, trunk.ends), path)
        inner = prefix + trunk.edge
        path = [*path, *((own, offset) for offset in range(len(own.tokens)))]
        units = [self._laid_out(unit, path) for unit in trunk.units]
        below = [batch for deeper in trunk.trunks for batch in self.batches(deeper, inner, path)]
        if own.tokens:
            yield _batch([[own]], prefix, keep=True)
        for rows in self._packed(units, len(inner)):
            yield _batch(rows, inner, keep=False)
        yield from below

    def _packed(self, units: Sequence[_Unit], prefix: int) -> list[Rows]:
        """The cheapest packing of all row lengths."""
        packings = [list(_packed(units, row, self._costs)) for row in ROWS]
        return min(packings, key=lambda batches: sum(self._cost(rows, prefix) for rows in batches))

    def _cost(self, rows: Rows, prefix: int) -> float:
        length = max(map(_length, rows))
        return self._costs.overhead / 4 + len(rows) * length * (1 + (prefix + length) / self._costs.width)

    def _laid_out(self, root: Node, path: Path) -> _Unit:
        unit = _Unit()
        self._lay(root, unit, path)
        return unit

    def _lay(self, node: Node, unit: _Unit, path: Path) -> None:
        start = len(unit.tokens)
        unit.tokens += node.edge
        unit.positions += range(len(path), len(path) + len(node.edge))
        unit.ends += [0] * len(node.edge)
        path = [*path, *((unit, offset) for offset in range(start, len(unit.tokens)))]
        for number in node.ends:
            continuation = self._pairs[number].continuation
            for (where, offset), target in zip(path[-len(continuation) :], continuation, strict=True):
                where.marks.append((offset, target, number))
        for child in node.children:
            self._lay(child, unit, path)
        unit.ends[start : start + len(node.edge)] = [len(unit.tokens)] * len(node.edge)


def _packed(units: Sequence[_Unit], fill: int, costs: Costs) -> Iterator[Rows]:
    """Rows of units, batch by batch: the longest unit sets the length, the others go where they first fit."""
    waiting = sorted(units, key=lambda unit: -len(unit.tokens))
    while waiting:
        length = max(fill, len(waiting[0].tokens))
        room = [length] * max(1, min(len(waiting), costs.most // length))
        rows: Rows = [[] for _ in room]
        states, left = 0, []
        for unit in waiting:
            row = next((i for i, free in enumerate(room) if free >= len(unit.tokens)), None)
            if row is None or (states and states + unit.states > costs.states):
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
    ends = np.tile(np.arange(1, length + 1), (len(rows), 1))  # padding sees itself
    marks: list[tuple[int, int, int]] = []
    for number, row in enumerate(rows):
        start = 0
        for unit in row:
            stop = start + len(unit.tokens)
            tokens[number, start:stop] = unit.tokens
            positions[number, start:stop] = unit.positions
            ends[number, start:stop] = np.add(unit.ends, start)
            marks += [(number * length + start + offset, target, pair) for offset, target, pair in unit.marks]
            start = stop
    places, targets, pairs = np.array(marks, dtype=np.int64).reshape(-1, 3).T
    states, scored = np.unique(places, return_inverse=True)
    return Batch(prefix, keep, tokens, positions, ends, states, scored, targets, pairs)
