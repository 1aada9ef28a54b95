"""The rows that every search must beat: base, each expert, uniform average, the method's textbook default."""

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.errors import ConfigError
from evomerge.recipe import ModelRef, Recipe, Source, models_form
from evomerge.space import SearchSpace

CONTROL = "random_direction"
RESERVED = ("base", "uniform", "default", CONTROL, "centre", "simpler", "winner")


def baselines(space: SearchSpace, base: ModelRef, experts: Mapping[str, ModelRef]) -> dict[str, Recipe]:
    """Label → recipe, the base first.

    Base, experts and average are written as task arithmetic, which is exact for them; the default is the space's own
    method (or each of its methods) with its textbook values, or those that the experiment gives as `default`.
    ConfigError where an expert bears a baseline's name.
    """
    defaults = space.defaults()
    for label in experts:
        if label in RESERVED or label in defaults:
            raise ConfigError(f"experts.{label}: that name is a baseline's; call the expert something else")
    rest: dict[str, Any] = {"out_dtype": space.out_dtype, "seed": space.seed}
    refs = tuple(experts.values())

    def weighted(weights: list[float]) -> Recipe:
        sources = tuple(Source(ref, {"weight": weight}) for ref, weight in zip(refs, weights, strict=True))
        return models_form("task_arithmetic", base, sources, {}, **rest)

    found = {"base": weighted([0.0] * len(refs))}
    for place, label in enumerate(experts):
        found[label] = weighted([float(place == other) for other in range(len(refs))])
    found["uniform"] = weighted([_share(refs)] * len(refs))
    return found | {label: space.decode(vector) for label, vector in defaults.items()}


def controls(
    base: ModelRef,
    experts: Mapping[str, ModelRef],
    space: SearchSpace,
    *,
    random_direction: bool = False,
) -> dict[str, Recipe]:
    """Rows that no merge should lose against.

    `random_direction` is the uniform average with random signs: every element moves as far from the base as there, but
    half of them the wrong way. Where it scores alike, the amount of change is all that the average has.
    """
    if not random_direction:
        return {}
    sources = tuple(Source(ref, {"amount": _share(tuple(experts.values()))}) for ref in experts.values())
    rest: dict[str, Any] = {"out_dtype": space.out_dtype, "seed": space.seed}
    return {CONTROL: models_form(CONTROL, base, sources, {}, **rest)}


def _share(refs: Sequence[ModelRef]) -> float:
    return round(1.0 / len(refs), 6)
