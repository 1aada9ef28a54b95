"""Warm starts: points at which a search begins, from recipe files and from the best recipes of another run."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, RunError
from evomerge.ledger import complete_scores, plan_of, read_trials
from evomerge.optimizers import Vector
from evomerge.paths import LEDGER
from evomerge.recipes import Recipe, load_recipe, original_recipe, parse_recipe
from evomerge.schema import prefix_errors
from evomerge.space.search_space import SearchSpace

log = logging.getLogger(__name__)

WINNERS = 5  # recipes taken from another run
FAR = 0.005  # a larger distance is reported; rounding of gene values stays below it


def initial_points(space: SearchSpace, paths: Sequence[str]) -> dict[str, Vector]:
    """Label → the nearest point of the space for the recipe of each path, or for the best recipes of a run folder.

    A point whose recipe differs is logged as a warning.
    """
    found = {}
    for path in paths:
        for label, recipe in _recipes(Path(path)):
            try:
                found[label], distance = space.nearest(recipe)
            except ConfigError as error:
                raise ConfigError(f"init {label}: {error}") from None
            if recipe.method not in space.method.split(" or "):
                log.warning(
                    "init %s: its method, %s, is not searched; only common genes are used", label, recipe.method
                )
            elif distance > FAR:
                log.warning(
                    "init %s: not in the space; the nearest point is %.3f of the genes' ranges away", label, distance
                )
    return found


def _recipes(path: Path) -> Iterator[tuple[str, Recipe]]:
    if not path.is_dir():
        with prefix_errors("init"):
            yield str(path), original_recipe(load_recipe(path))
        return
    try:
        header, lines = read_trials(path / LEDGER)
        documents = {line["key"]: line["recipe"] for line in lines if "recipe" in line}
        best = _best(header, lines)[:WINNERS]
    except (RunError, KeyError, TypeError) as error:
        raise ConfigError(f"init {path}: not a run that has scored anything ({error}); give its folder") from None
    for rank, key in enumerate(best, 1):
        yield f"{path} {rank}", original_recipe(parse_recipe(documents[key]))


def _best(header: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of all recipes scored on the whole search slice, best first by the weighted mean of the task means."""
    plan = plan_of(header, lines)
    fitness = {key: plan.score(items) for key, items in complete_scores(plan, lines).items()}
    return sorted(fitness, key=lambda key: -fitness[key])
