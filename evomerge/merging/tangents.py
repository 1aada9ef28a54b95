"""How the values of a recipe's genes move the coefficients of each tensor: small derivatives on the host."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from evomerge import methods
from evomerge.errors import CandidateError
from evomerge.kernels import Coefficients, is_zero, same_form, tangent
from evomerge.merging.materializer import Materializer, TensorMerge
from evomerge.methods import Gene, Genes, Method, Owner
from evomerge.recipes import Recipe

STEP = 1e-4  # of central differences, in units of a gene's range: errors of 1e-8 beside rounding errors of 1e-12


@dataclass(frozen=True)
class TensorTangents:
    """The derivatives of one tensor's coefficients with respect to the value of each gene that moves it.

    `merge` is the merge at the point of the derivatives, which is not the recipe's where the method changes its rule.
    """

    merge: TensorMerge
    place: int  # of the tensor among all of the recipe
    tangents: Mapping[Owner, Coefficients]


def recipe_tangents(materializer: Materializer, recipe: Recipe, genes: Sequence[str]) -> Iterator[TensorTangents]:
    """The tangents of every tensor that the values of these genes move; genes without a slope are left out.

    Where a method changes its rule or its range ends, as at a weight of 0, the derivatives are those a little inside.
    """
    method = methods.load(recipe.method)
    searched = [gene for gene in method.GENES if gene.name in genes and gene.slope]
    for place, merge in enumerate(materializer.tensor_merges(recipe)):
        found = _tangents(method, merge, searched)
        if found is None:
            merge = _shifted(method, merge, searched)
            found = _tangents(method, merge, searched) or {}
        moving = {owner: one for owner, one in found.items() if not is_zero(one, merge.setup.sources)}
        if moving:
            yield TensorTangents(merge, place, moving)


def _tangents(method: Method, merge: TensorMerge, genes: Sequence[Gene]) -> dict[Owner, Coefficients] | None:
    """Central differences of the method's coefficients; None if their form changes or a value leaves its range."""
    found: dict[Owner, Coefficients] = {}
    for gene in genes:
        step = STEP * (gene.high - gene.low)
        for expert in range(len(merge.plan.experts)) if gene.per == "expert" else (None,):
            try:
                plus = _coefficients(method, merge, gene.name, expert, step)
                minus = _coefficients(method, merge, gene.name, expert, -step)
            except CandidateError:
                return None
            if not (same_form(plus, merge.coefficients) and same_form(minus, merge.coefficients)):
                return None
            found[gene.name, expert] = tangent(plus, minus, 2 * step)
    return found


def _coefficients(method: Method, merge: TensorMerge, name: str, expert: int | None, step: float) -> Coefficients:
    return method.coefficients(merge.setup, _moved(merge.plan.genes, name, expert, step))


def _moved(genes: Genes, name: str, expert: int | None, step: float) -> Genes:
    if expert is None:
        return replace(genes, shared={**genes.shared, name: float(genes.shared[name]) + step})
    values = [dict(each) for each in genes.experts]
    values[expert][name] = float(values[expert][name]) + step
    return replace(genes, experts=tuple(values))


def _shifted(method: Method, merge: TensorMerge, genes: Sequence[Gene]) -> TensorMerge:
    """The merge of a point at which every value is a few steps nearer to the middle of its range."""
    plan = merge.plan
    for gene in genes:
        step, middle = 3 * STEP * (gene.high - gene.low), (gene.low + gene.high) / 2
        for expert in range(len(plan.experts)) if gene.per == "expert" else (None,):
            value = (plan.shared if expert is None else plan.experts[expert].values)[gene.name]
            plan = plan.with_genes(_moved(plan.genes, gene.name, expert, step if value < middle else -step))
    return replace(merge, plan=plan, coefficients=method.coefficients(merge.setup, plan.genes))
