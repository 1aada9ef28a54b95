"""The groups of a space over one layout: their tensors, their depths, and those that no expert brings anything to."""

from collections.abc import Sequence
from typing import Any

from evomerge.models import Group, Layout, layer_of


class GroupMembers:
    """What a space knows of tensors: `touched` holds, for each expert, the tensors that it changes."""

    def __init__(self, layout: Layout, touched: Sequence[frozenset[str]], components: Any, outer: str) -> None:
        self.layout, self._touched = layout, tuple(touched)
        self.groups = layout.groups(components, outer)
        members = zip(self.groups, _members(layout, self.groups), strict=True)
        self.members = {group.name: names for group, names in members}
        self.layers = {name: _depth(layout, names) for name, names in self.members.items()}
        everything = frozenset().union(*self._touched)
        catch_all = self.groups[-1].filters == (None,)
        # Where every expert is the base any coefficient gives the base: the last rule serves, and the recipe is short.
        self.skipped = {
            group.name for group in self.groups[:-1] if catch_all and everything.isdisjoint(self.members[group.name])
        }

    def touching(self, group: Group) -> tuple[int, ...]:
        """The places of the experts that change something in a group."""
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


def _depth(layout: Layout, members: frozenset[str]) -> int:
    """Layers of the deepest stack that a group has tensors in."""
    places = (layer_of(name) for name in members)
    return max((layout.stacks[place[0]] for place in places if place), default=1)
