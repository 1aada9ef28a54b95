"""The recipes that a screening scores; none of them names an expert that it does not merge.

A recipe's key is thus the same in a search over fewer experts, which finds its scores in the ledger.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.recipes import ModelRef, Recipe, Source, recipe_of_models

METHOD = "task_arithmetic"
DECIMALS = 6


@dataclass(frozen=True)
class MergeOptions:
    """The dtype of the merged weights and the seed, as in the recipes of the search."""

    out_dtype: str | None = None
    seed: int = 0


def base_recipe(base: ModelRef, options: MergeOptions) -> Recipe:
    """The base itself."""
    return _recipe(base, (Source(base, {"weight": 0.0}),), options)


def alone_recipe(base: ModelRef, expert: ModelRef, options: MergeOptions) -> Recipe:
    """One expert itself."""
    return equal_merge(base, (expert,), options)


def equal_merge(base: ModelRef, experts: Sequence[ModelRef], options: MergeOptions) -> Recipe:
    """Task arithmetic with the weight 1/√k for each of k experts.

    The sum of k orthogonal task vectors of one length then has this length.
    """
    weight = round(1.0 / math.sqrt(len(experts)), DECIMALS)
    return _recipe(base, tuple(Source(expert, {"weight": weight}) for expert in experts), options)


def _recipe(base: ModelRef, sources: tuple[Source, ...], options: MergeOptions) -> Recipe:
    return recipe_of_models(METHOD, base, sources, {}, out_dtype=options.out_dtype, seed=options.seed)
