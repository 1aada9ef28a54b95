"""Recipes as a search freezes them: random points of a space."""

from typing import Any

import numpy as np

from evomerge.models.family import Family
from evomerge.recipes.recipe import ModelRef, Recipe
from evomerge.space.space import Space


def opened(base: str, experts: list[str]) -> Family:
    """The base and the experts, written as in a recipe, with their tensors."""
    return Family(ModelRef.parse(base), [ModelRef.parse(expert) for expert in experts])


def decoded(models: Family, method: str, **options: Any) -> Recipe:
    """The recipe of a random point of a space over all experts of the family."""
    named = {f"expert{i}": expert for i, expert in enumerate(models.experts)}
    touched = [models.touched(expert) for expert in models.experts]
    space = Space(method=method, base=models.ref, experts=named, layout=models.layout, touched=touched, **options)
    return space.decode(np.random.default_rng(space.dimensions).random(space.dimensions))
