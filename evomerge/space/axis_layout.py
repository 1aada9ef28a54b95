"""The axes of a space: one set for each searched gene and group of tensors, one after the other in the cube."""

from typing import Any

from evomerge.methods import Gene
from evomerge.models import Group
from evomerge.space.axes import Axes
from evomerge.space.genes import Genes
from evomerge.space.group_members import GroupMembers
from evomerge.space.schedules import Schedule


def lay_axes(genes: Genes, group_members: GroupMembers, experts: int) -> list[Axes]:
    """The axes of all searched genes, for so many experts."""
    found: list[Axes] = []
    for gene, spec in genes.free:
        for group in group_members.groups:
            start = sum(axes.size for axes in found)
            axes = _axes_of(gene, group, spec, start, genes, group_members, experts)
            found += [axes] if axes and axes.size else []
    return found


def _axes_of(
    gene: Gene, group: Group, spec: Any, start: int, genes: Genes, group_members: GroupMembers, experts: int
) -> Axes | None:
    """The gene's axes in a group; None if the group is frozen or no expert changes it."""
    changing = group_members.experts_changing(group)
    if group.frozen or not changing:
        return None
    simplex = gene.name == "weight" and genes.normalizes
    # A weight that is not additive has an effect even if its expert equals the base in this group.
    always = gene.name == "weight" and not genes.additive_weights
    owners = () if gene.per == "group" else tuple(range(experts)) if always else changing
    layers = group_members.layers[group.name] if group.layered else 1
    schedule = Schedule.parse(spec if group.layered else "all", layers, "space.schedule")
    return Axes(gene, group, schedule, owners, simplex, start)
