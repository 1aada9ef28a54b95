"""The registry of pools: their names, and their construction from the settings of an experiment."""

from collections.abc import Mapping
from typing import Any, cast

from evomerge.plugins import load_plugin, plugin_names
from evomerge.schema import check_section
from evomerge.workers import WorkerSpec
from evomerge.workers.pools._contract import Pool


def names() -> tuple[str, ...]:
    """The names of all pools, sorted: one for each public file of this folder."""
    return plugin_names("workers.pools")


def check(name: str, settings: Mapping[str, Any]) -> None:
    """ConfigError for an unknown pool or setting, or for missing CPUs or GPUs; starts no worker."""
    module = load_plugin("workers.pools", name, "pool")
    check_section(module.create, settings, "pool")
    module.check(**settings)


def create(name: str, spec: WorkerSpec, settings: Mapping[str, Any]) -> Pool:
    """The pool with this name, with its workers started."""
    check(name, settings)
    return cast(Pool, load_plugin("workers.pools", name, "pool").create(spec, **settings))
