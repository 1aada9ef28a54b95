"""Token trees: the token sequences of a chunk with shared beginnings stored once, divided into units of computation.

Each request is scored from one token sequence. Sequences with a common beginning share a path of a tree: the choices of
an item share its context, the items of a task share their few-shot prefix. A subtree that fits into one row of a batch
is a unit, computed under a tree attention mask. The common beginning of a larger subtree is either computed once and
kept in a KV cache (a `CachedPrefix`) or repeated in front of each of its units, whichever costs less.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby

Tokens = tuple[int, ...]

ROW_LENGTH = 128
"""The row length, in tokens, into which short units are packed. Longer rows cost more attention, shorter ones leave
more padding."""


@dataclass(frozen=True)
class Costs:
    """The costs of a forward pass, in units of the cost of one token's layers without attention, and batch limits.

    Attending to `width` tokens costs one unit; `width` is six times the hidden size if a layer has 12·hidden² weights.
    `overhead` is the cost of one more forward pass. A batch has at most `max_tokens` tokens and `max_states` scored
    positions.
    """

    width: int
    max_tokens: int
    max_states: int
    overhead: int = 256

    def of_unit(self, tokens: int, prefix: int = 0) -> float:
        """The cost of a unit of so many tokens, in a row behind a cached prefix of so many."""
        return tokens * (1 + (prefix + max(tokens, ROW_LENGTH)) / self.width)


@dataclass(frozen=True)
class Pair:
    """The token ids of a context and of a continuation whose log-likelihood is requested; neither is empty."""

    context: Tokens
    continuation: Tokens

    def inputs(self, max_length: int) -> Tokens:
        """The model's input: context and continuation without the last token, truncated on the left as in lm-eval."""
        return (self.context + self.continuation)[-(max_length + 1) : -1]


@dataclass(frozen=True)
class TokenTree:
    """A run of tokens without a branch, the indices of the pairs whose input ends with it, and its continuations."""

    tokens: Tokens
    pairs: tuple[int, ...] = ()
    children: tuple["TokenTree", ...] = ()

    @cached_property
    def size(self) -> int:
        """The number of tokens of the whole tree."""
        return len(self.tokens) + sum(child.size for child in self.children)


@dataclass
class CachedPrefix:
    """A prefix whose keys and values are cached, the units computed behind it, and longer cached prefixes.

    `pairs` are the indices of the pairs whose input ends with the prefix. `extensions` begin with this prefix; their
    `tokens` are those that they add.
    """

    tokens: Tokens = ()
    pairs: tuple[int, ...] = ()
    units: list[TokenTree] = field(default_factory=list)
    extensions: list["CachedPrefix"] = field(default_factory=list)


def build_trees(sequences: Sequence[Tokens]) -> list[TokenTree]:
    """The token trees of some sequences; pairs are numbered by their position, equal sequences share a node."""
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    distinct = [(tokens, tuple(group)) for tokens, group in groupby(order, key=lambda i: sequences[i])]
    return list(_branches(distinct, 0))


def _branches(sequences: Sequence[tuple[Tokens, tuple[int, ...]]], depth: int) -> Iterator[TokenTree]:
    """The trees of sorted sequences that agree in their first `depth` tokens, from there on."""
    for _, group in groupby(sequences, key=lambda item: item[0][depth]):
        members = list(group)
        # In sorted order, the first and the last sequence have the shortest common beginning.
        stop = _common_length(members[0][0], members[-1][0], depth)
        pairs = members[0][1] if len(members[0][0]) == stop else ()
        longer = members[1:] if pairs else members
        yield TokenTree(members[0][0][depth:stop], pairs, tuple(_branches(longer, stop)))


def _common_length(first: Tokens, last: Tokens, depth: int) -> int:
    """The number of leading tokens that two sequences share, of which `depth` are known."""
    shorter = min(len(first), len(last))
    return next((i for i in range(depth, shorter) if first[i] != last[i]), shorter)


def schedule_trees(roots: Sequence[TokenTree], costs: Costs) -> CachedPrefix:
    """The units and cached prefixes with the lowest cost, as the content of an empty prefix."""
    return _combined([_cheapest(tree, costs) for tree in roots])


def _cheapest(tree: TokenTree, costs: Costs) -> tuple[float, CachedPrefix]:
    """The cheapest schedule of a tree and its cost: one unit, a repeated beginning, or a cached one."""
    if not tree.children:
        return costs.of_unit(tree.size), CachedPrefix(units=[tree])
    below = [_cheapest(child, costs) for child in tree.children]
    options = [_repeated(tree, _combined(below), costs), _cached(tree, _combined(below), costs)]
    if tree.size <= costs.max_tokens:
        options.append((costs.of_unit(tree.size), CachedPrefix(units=[tree])))
    return min(options, key=lambda option: option[0])


def _combined(schedules: Sequence[tuple[float, CachedPrefix]]) -> CachedPrefix:
    return CachedPrefix(
        units=[unit for _, part in schedules for unit in part.units],
        extensions=[prefix for _, part in schedules for prefix in part.extensions],
    )


def _repeated(tree: TokenTree, below: CachedPrefix, costs: Costs) -> tuple[float, CachedPrefix]:
    """The schedule that repeats the tree's first tokens in front of each group of units and each cached prefix."""
    room = min(max(ROW_LENGTH, 2 * len(tree.tokens)), costs.max_tokens) - len(tree.tokens)
    units = [TokenTree(tree.tokens, (), tuple(group)) for group in _grouped(below.units, room)]
    if tree.pairs:
        units[:1] = [replace(units[0] if units else TokenTree(tree.tokens), pairs=tree.pairs)]
    extensions = [replace(prefix, tokens=tree.tokens + prefix.tokens) for prefix in below.extensions]
    return _cost(units, extensions, costs), CachedPrefix(units=units, extensions=extensions)


def _cached(tree: TokenTree, below: CachedPrefix, costs: Costs) -> tuple[float, CachedPrefix]:
    """The schedule that caches the tree's first tokens."""
    prefix = CachedPrefix(tree.tokens, tree.pairs, below.units, below.extensions)
    return _cost([], [prefix], costs), CachedPrefix(extensions=[prefix])


def _cost(units: Sequence[TokenTree], prefixes: Sequence[CachedPrefix], costs: Costs, length: int = 0) -> float:
    """The cost of units, and of cached prefixes with all behind them, after a cached prefix of `length` tokens."""
    total = sum(costs.of_unit(unit.size, length) for unit in units)
    for prefix in prefixes:
        total += costs.of_unit(len(prefix.tokens), length) + costs.overhead
        total += _cost(prefix.units, prefix.extensions, costs, length + len(prefix.tokens))
    return total


def _grouped(units: Sequence[TokenTree], room: int) -> Iterator[list[TokenTree]]:
    """Consecutive units in groups of at most `room` tokens, or of one unit."""
    group: list[TokenTree] = []
    used = 0
    for unit in units:
        if group and used + unit.size > room:
            yield group
            group, used = [], 0
        group.append(unit)
        used += unit.size
    if group:
        yield group
