"""Token trees: what a chunk asks, with every beginning that requests share kept once, cut into units of work.

A request is scored from one token sequence. Sequences that begin alike share a path of the tree: the choices of
an item its context, the items of a task their few-shot prefix. A subtree that fits a row is one unit, computed
in a single row under a tree mask; the beginning of a larger one is either computed once and cached (a `Trunk`)
or, where that saves too little, repeated in front of each of its units. Whatever costs least is taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby

Tokens = tuple[int, ...]

ROW = 128
"""Tokens of a row that short units are packed into: longer rows attend in vain, shorter ones leave gaps."""


@dataclass(frozen=True)
class Costs:
    """What computing costs, in tokens: attending to `width` tokens costs as much as the rest of a token's layers.

    That is six times the hidden size for a model whose layers hold twelve hidden² weights. `overhead` is what one
    more forward pass costs; `most` and `states` are the tokens and the scored positions of the largest batch.
    """

    width: int
    most: int
    states: int
    overhead: int = 256

    def row(self, tokens: int, prefix: int = 0) -> float:
        """Of so many tokens of one unit, in a row behind a cached prefix."""
        return tokens * (1 + (prefix + max(tokens, ROW)) / self.width)


@dataclass(frozen=True)
class Pair:
    """A context and the continuation whose log-likelihood is asked, as token ids; neither is empty."""

    context: Tokens
    continuation: Tokens

    def inputs(self, max_length: int) -> Tokens:
        """What the model reads: both without the last token, cut on the left as lm-eval does."""
        return (self.context + self.continuation)[-(max_length + 1) : -1]


@dataclass(frozen=True)
class Node:
    """A run of tokens without a branch, the pairs (by number) that end with it, and what may follow."""

    edge: Tokens
    ends: tuple[int, ...] = ()
    children: tuple["Node", ...] = ()

    @cached_property
    def size(self) -> int:
        """Tokens of the whole subtree."""
        return len(self.edge) + sum(child.size for child in self.children)


@dataclass
class Trunk:
    """A cached beginning, the units to compute below it, and the longer beginnings that start with it."""

    edge: Tokens = ()
    ends: tuple[int, ...] = ()
    units: list[Node] = field(default_factory=list)
    trunks: list["Trunk"] = field(default_factory=list)


def build_trees(sequences: Sequence[Tokens]) -> list[Node]:
    """The trees of some sequences, numbered by their place; equal sequences end at the same node."""
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    distinct = [(tokens, tuple(group)) for tokens, group in groupby(order, key=lambda i: sequences[i])]
    return list(_branches(distinct, 0))


def _branches(sequences: Sequence[tuple[Tokens, tuple[int, ...]]], depth: int) -> Iterator[Node]:
    """Nodes of sorted sequences that agree in their first `depth` tokens."""
    for _, group in groupby(sequences, key=lambda item: item[0][depth]):
        members = list(group)
        stop = _agreement(members[0][0], members[-1][0], depth)  # of sorted sequences, first and last differ most
        ends = members[0][1] if len(members[0][0]) == stop else ()
        rest = members[1:] if ends else members
        yield Node(members[0][0][depth:stop], ends, tuple(_branches(rest, stop)))


def _agreement(first: Tokens, last: Tokens, depth: int) -> int:
    """How many tokens two sequences share, `depth` of them known."""
    most = min(len(first), len(last))
    return next((i for i in range(depth, most) if first[i] != last[i]), most)


def schedule_trees(roots: Sequence[Node], costs: Costs) -> Trunk:
    """The cheapest work, by `costs`, below an empty beginning."""
    return _joined([_work(node, costs) for node in roots])


def _work(node: Node, costs: Costs) -> tuple[float, Trunk]:
    """The work of a subtree and its cost: in one row, as copies of its beginning, or below a cached one."""
    if not node.children:
        return costs.row(node.size), Trunk(units=[node])
    below = [_work(child, costs) for child in node.children]
    options = [_copied(node, _joined(below), costs), _cached(node, _joined(below), costs)]
    if node.size <= costs.most:
        options.append((costs.row(node.size), Trunk(units=[node])))
    return min(options, key=lambda option: option[0])


def _joined(parts: Sequence[tuple[float, Trunk]]) -> Trunk:
    return Trunk(
        units=[unit for _, part in parts for unit in part.units],
        trunks=[trunk for _, part in parts for trunk in part.trunks],
    )


def _copied(node: Node, below: Trunk, costs: Costs) -> tuple[float, Trunk]:
    """The beginning again in front of every group of units, and of every beginning that was cached below."""
    room = min(max(ROW, 2 * len(node.edge)), costs.most) - len(node.edge)
    units = [Node(node.edge, (), tuple(group)) for group in _gathered(below.units, room)]
    if node.ends:
        units[:1] = [replace(units[0] if units else Node(node.edge), ends=node.ends)]
    trunks = [replace(trunk, edge=node.edge + trunk.edge) for trunk in below.trunks]
    return _cost(units, trunks, costs), Trunk(units=units, trunks=trunks)


def _cached(node: Node, below: Trunk, costs: Costs) -> tuple[float, Trunk]:
    trunk = Trunk(node.edge, node.ends, below.units, below.trunks)
    return _cost([], [trunk], costs), Trunk(trunks=[trunk])


def _cost(units: Sequence[Node], trunks: Sequence[Trunk], costs: Costs, prefix: int = 0) -> float:
    """Of units and of everything below cached beginnings, all behind a cached prefix."""
    total = sum(costs.row(unit.size, prefix) for unit in units)
    for trunk in trunks:
        inner = prefix + len(trunk.edge)
        total += costs.row(len(trunk.edge), prefix) + costs.overhead
        total += _cost(trunk.units, trunk.trunks, costs, inner)
    return total


def _gathered(units: Sequence[Node], room: int) -> Iterator[list[Node]]:
    """Neighbours together as long as there is room for them."""
    group: list[Node] = []
    used = 0
    for unit in units:
        if group and used + unit.size > room:
            yield group
            group, used = [], 0
        group.append(unit)
        used += unit.size
    if group:
        yield group
