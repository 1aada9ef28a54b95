"""Where workers run: one file per pool, found by being in this folder."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

from evomerge.errors import ConfigError
from evomerge.jobs import Outcome, WorkerSpec
from evomerge.pools._dispatch import Dispatch
from evomerge.recipe import Recipe
from evomerge.schema import check_section, shown
from evomerge.scorers import Request
from evomerge.suggest import nearest

__all__ = ["Dispatch", "Pool", "check", "create", "names"]


class Pool(Protocol):
    """What `create` in each file of this folder returns."""

    def run(self, jobs: Dispatch) -> Iterator[Outcome]:
        """Outcomes as they come, in any order, until nothing waits and no worker is at work.

        A worker that is free takes `jobs.next(what it holds)`. The caller may change what waits between two outcomes.
        """

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """Let every worker, present and later ones, know these chunks, too; not while `run` has jobs out."""

    def fingerprint(self, recipe: Recipe) -> str:
        """The fingerprint of a candidate as a worker would score it."""

    def close(self) -> None:
        """Free what the workers hold."""


def names() -> tuple[str, ...]:
    """Every pool of this folder, sorted."""
    found = (m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return tuple(sorted(found))


def check(name: str, settings: Mapping[str, Any]) -> None:
    """ConfigError for an unknown pool or setting, or a resource that is known to be missing; starts nothing."""
    if name not in names():
        raise ConfigError(f"pool '{shown(name)}' is not known{nearest(name, names())}; choose of {', '.join(names())}")
    module = importlib.import_module(f"evomerge.pools.{name}")
    check_section(module.create, settings, "pool")
    module.check(**settings)


def create(name: str, spec: WorkerSpec, settings: Mapping[str, Any]) -> Pool:
    """The pool of this name with its workers started."""
    check(name, settings)
    return cast(Pool, importlib.import_module(f"evomerge.pools.{name}").create(spec, **settings))
