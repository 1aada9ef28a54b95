"""From derivatives with respect to a recipe's values, tensor by tensor, to derivatives with respect to coordinates."""

from collections.abc import Mapping, Sequence

import numpy as np

from evomerge.methods import Owner
from evomerge.optimizers import Vector
from evomerge.space.axes import Axes
from evomerge.space.group_members import GroupMembers
from evomerge.space.schedules import Schedule


class PullBack:
    """The transpose of decoding: axes to values of a schedule, and these to a value for each tensor."""

    def __init__(self, axes: Sequence[Axes], group_members: GroupMembers) -> None:
        self._axes, self._group_members = tuple(axes), group_members
        self._bases: dict[tuple[str, Schedule], Vector] = {}

    def __call__(self, vector: Vector, sums: Mapping[Owner, Vector], places: Mapping[int, int]) -> Vector:
        """The derivatives at a point; `places` maps an expert of the space to its place in the recipe.

        `sums` maps a gene and such a place to one derivative per tensor; experts without a place have no slope.
        """
        parts = []
        for axes in self._axes:
            basis = self._basis(axes)
            table = np.zeros((len(basis), max(1, len(axes.experts))))
            for column, expert in enumerate(axes.experts or (None,)):
                if expert is None or expert in places:
                    owner = (axes.gene.name, None if expert is None else places[expert])
                    table[:, column] = sums.get(owner, 0.0)
            parts.append(axes.pull_back(vector, basis.T @ table))
        return np.concatenate(parts)

    def _basis(self, axes: Axes) -> Vector:
        """The weight of each point of the schedule in the value of each tensor, [tensors, schedule points]."""
        key = (axes.group.name, axes.schedule)
        if key not in self._bases:
            layout, members = self._group_members.layout, self._group_members.members[axes.group.name]
            basis = np.zeros((len(layout.names), axes.schedule.points))
            for place, name in enumerate(layout.names):
                if name in members:
                    basis[place] = axes.schedule.weights(layout.depth(name))
            self._bases[key] = basis
        return self._bases[key]
