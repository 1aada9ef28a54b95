"""Recipes and coefficients for any method from its own declarations, so that a new method is tested by being there."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from evomerge import methods
from evomerge.kernels.factors import Factors
from evomerge.kernels.sources import Sources, Update
from evomerge.recipes.recipe import ModelRef, Recipe, Source, recipe_of_models
from tests.families import Folders
from tests.passes import merged

Values = Mapping[str, float | bool]


def count(name: str) -> int:
    """How many experts a test gives the method: three, or as many as it takes."""
    return min(3, methods.load(name).EXPERTS[1])


def weighted(name: str) -> bool:
    """Whether each expert has a weight of its own."""
    return "weight" in methods.load(name).PER_EXPERT


def selects(name: str) -> bool:
    """Whether genes of the method can ask for one of the models, all of it: by a weight, or by `t`."""
    return weighted(name) or any(gene.name == "t" for gene in methods.load(name).GENES)


def has_base(name: str) -> bool:
    """Whether the method has values at which it returns its base; one that shares out among experts has none."""
    return any(gene.base is not None for gene in methods.load(name).GENES)


def split(name: str, values: Values) -> tuple[dict[str, float | bool], dict[str, float | bool]]:
    """The values that an expert of the method has, and the values that all share."""
    method = methods.load(name)
    genes = {gene.name: gene.default for gene in method.GENES} | dict(values)
    own = {key: value for key, value in genes.items() if key in method.PER_EXPERT}
    return own, {key: value for key, value in genes.items() if key in method.SHARED}


def recipe(
    name: str,
    base: ModelRef,
    experts: Sequence[ModelRef],
    weights: Sequence[float] = (0.7, 0.4, 0.2),
    base_weight: float | None = None,
    options: Mapping[str, str] | None = None,
    **values: float | bool,
) -> Recipe:
    """A recipe of the method: every gene at its default, save `weights` and `values`."""
    method = methods.load(name)
    own, shared = split(name, values)
    sources = []
    for expert, weight in zip(experts, weights, strict=False):
        sources.append(Source(expert, {**own, **({"weight": weight} if weighted(name) else {})}))
    if base_weight is not None and "weight" in method.BASE:
        sources.insert(0, Source(base, {"weight": base_weight}))
    chosen = methods.choose_options(name, options or {})
    return recipe_of_models(name, base, tuple(sources), shared, seed=3, options=chosen, out_dtype="bfloat16")


def some(name: str, folders: Folders, **values: float | bool) -> Recipe:
    """An ordinary recipe of the method over a family."""
    return recipe(name, folders.base, folders.experts[: count(name)], **values)


def one_hot(name: str, folders: Folders, place: int) -> Recipe:
    """The recipe that says: this expert, all of it."""
    weights = [float(place == other) for other in range(count(name))]
    full = {"density": 1.0, "lambda": 1.0, "t": 1.0}
    return recipe(name, folders.base, folders.experts[: count(name)], weights, **full)


def at_base(name: str, folders: Folders, **values: float | bool) -> Recipe:
    """The recipe whose genes have the values at which the method says that it returns its base."""
    zero = {gene.name: gene.base for gene in methods.load(name).GENES if gene.base is not None}
    experts = folders.experts[: count(name)]
    return recipe(name, folders.base, experts, [0.0] * len(experts), base_weight=1.0, **{**zero, **values})


def merge(
    name: str,
    base: Tensor,
    experts: Sequence[Update],
    weights: Sequence[float] = (0.7, 0.4, 0.2),
    base_weight: float = 0.0,
    tensor: str = "layer.weight",
    seed: int = 3,
    densities: Sequence[float] | None = None,
    options: Mapping[str, str] | None = None,
    **values: float | bool,
) -> Tensor:
    """One tensor by the method, without files; adapters stand for dense experts where it takes nothing else."""
    method = methods.load(name)
    if methods.adapters_only(method):
        experts = [as_factors(base, expert) for expert in experts]
    own, shared = split(name, values)
    shared = {**{key: value for key, value in method.SHARED.items() if value is not None}, **shared}
    sources = Sources(tensor, base, experts)
    setup = methods.Setup(sources, methods.choose_options(name, options or {}), seed, depth=0.5)
    sources.set_prepared(method.prepare(setup))
    rows = []
    for place in range(len(experts)):
        row = dict(own)
        if "weight" in own:
            row["weight"] = weights[place]
        if densities is not None and "density" in own:
            row["density"] = densities[place]
        rows.append(row)
    genes = methods.Genes(shared, tuple(rows), dict.fromkeys(method.BASE, base_weight))
    return merged(method.coefficients(setup, genes), sources)


def as_factors(base: Tensor, expert: Update) -> Update:
    """A dense matrix as an adapter of full rank; what is no matrix has no factors, and is the base."""
    if not isinstance(expert, Tensor):
        return expert
    return Factors(expert.float() - base.float(), torch.eye(base.shape[1]), 1.0) if base.ndim == 2 else None


def random_tensors(shape: tuple[int, ...], experts: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """A base and its experts, a tenth away from it."""
    generator = torch.Generator().manual_seed(sum(shape) + experts)
    base = torch.randn(shape, generator=generator)
    return [base.to(dtype), *((base + 0.1 * torch.randn(shape, generator=generator)).to(dtype) for _ in range(experts))]
