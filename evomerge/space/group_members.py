"""The tensor groups of a space: their tensors, their numbers of layers, and the experts that change them."""

from collections.abc import Sequence
from typing import Any

from evomerge.models import Group, Layout, layer_of


class GroupMembers:
    """The groups of a layout and their tensors; `touched` holds, for each expert, the tensors that it changes."""

    def __init__(
        self, layout: Layout, touched: Sequence[frozenset[str]], components: Any, outer: str, router: str = "merge"
    ) -> None:
        self.layout, self._touched = layout, tuple(touched)
        self.groups = layout.groups(components, outer, router)
        members = zip(self.groups, _members(layout, self.groups), strict=True)
        self.members = {group.name: names for group, names in members}
        self.layers = {name: _layer_count(layout, names) for name, names in self.members.items()}
        changed = frozenset().union(*self._touched)
        has_default_rule = self.groups[-1].filters == (None,)
        # A group that no expert changes is the base for any coefficients, so the recipe needs no rule for it.
        self.skipped = {
            group.name
            for group in self.groups[:-1]
            if has_default_rule and changed.isdisjoint(self.members[group.name])
        }

    def experts_changing(self, group: Group) -> tuple[int, ...]:
        """The indices of the experts that change a tensor of the group."""
        members = self.members[group.name]
        return tuple(i for i, touched in enumerate(self._touched) if not members.isdisjoint(touched))


def _members(layout: Layout, groups: Sequence[Group]) -> list[frozenset[str]]:
    left = list(layout.names)
    found = []
    for group in groups:
        inside = [name for name in left if any(text is None or text in name for text in group.filters)]
        left = [name for name in left if name not in set(inside)]
        found.append(frozenset(inside))
    return found


def _layer_count(layout: Layout, members: frozenset[str]) -> int:
    """The number of layers of the deepest stack in which the group has tensors; 1 if it has none in a stack."""
    places = (layer_of(name) for name in members)
    return max((layout.stacks[place[0]] for place in places if place), default=1)
