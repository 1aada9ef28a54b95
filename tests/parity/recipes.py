"""Short ways to write mergekit recipes as mappings."""

from typing import Any

from tests.parity.families import Family

Recipe = dict[str, Any]


def entry(path: str, **parameters: Any) -> Recipe:
    return {"model": path, "parameters": parameters} if parameters else {"model": path}


def recipe(method: str, base: str | None, entries: list[Recipe], **parameters: Any) -> Recipe:
    """A recipe in the models form; `lambda_` stands for the parameter that Python cannot spell."""
    head: Recipe = {"merge_method": method, "dtype": "float32", "models": entries}
    if base is not None:
        head["base_model"] = base
    if parameters:
        head["parameters"] = {key.rstrip("_"): value for key, value in parameters.items()}
    return head


def weighted(method: str, family: Family, *weights: Any, **parameters: Any) -> Recipe:
    """The first experts of a family with these weights, on its base."""
    pairs = zip(family.experts, weights, strict=False)
    return recipe(method, family.base, [entry(path, weight=weight) for path, weight in pairs], **parameters)


def slerp(family: Family, other: str, t: Any, **extra: Any) -> Recipe:
    return recipe("slerp", family.base, [entry(family.base), entry(other)], t=t) | extra


def piece(first: int, last: int, *sources: Recipe, **parameters: Any) -> Recipe:
    """One output slice that takes layers [first, last) of each source."""
    shaped = [{"layer_range": [first, last]} | source for source in sources]
    settings = {key.rstrip("_"): value for key, value in parameters.items()}
    return {"sources": shaped} | ({"parameters": settings} if settings else {})


def sliced(method: str, base: str | None, pieces: list[Recipe], **parameters: Any) -> Recipe:
    whole = recipe(method, base, [], **parameters)
    return {key: value for key, value in whole.items() if key != "models"} | {"slices": pieces}
