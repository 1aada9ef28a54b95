"""Merge methods: one file each, found by being in this folder; the file's name is the method's name.

A method never touches the optimizer, the pool or the device. Its module says: GENES (what a search may tune), SHARED,
PER_EXPERT and BASE (every parameter of a recipe with its default; None means that it must be given), EXPERTS (how many
it takes), EXACTNESS (how a recipe of it can be rebuilt elsewhere), OPTIONS (published variants, the default first),
`prepare` and `coefficients`.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, cast

from evomerge.errors import ConfigError
from evomerge.kernels import Coefficients, Sources
from evomerge.suggest import nearest

Exactness = Literal["exact", "frozen-linear", "distribution-only", "native"]
Values = Mapping[str, float | bool]


@dataclass(frozen=True)
class Gene:
    """A named coefficient: its natural range, its textbook default, and whether each expert has its own.

    `base` is the value at which the method returns its base, for a gene that decides that.
    """

    name: str
    low: float
    high: float
    default: float
    per: Literal["expert", "group"] = "expert"
    base: float | None = None


@dataclass(frozen=True)
class Genes:
    """The values of one tensor: `experts[i]` for the i-th expert, `base` for the base, `shared` for all."""

    shared: Values
    experts: tuple[Values, ...]
    base: Values


class Method(Protocol):
    """What a module in this folder provides."""

    GENES: tuple[Gene, ...]
    SHARED: Mapping[str, float | bool | None]
    PER_EXPERT: Mapping[str, float | None]
    BASE: tuple[str, ...]
    EXPERTS: tuple[int, int]
    EXACTNESS: Exactness
    OPTIONS: Mapping[str, tuple[str, ...]]

    def prepare(self, sources: Sources, options: Mapping[str, str], seed: int) -> Any:
        """What does not depend on the genes, once per tensor and run."""

    def coefficients(self, state: Any, genes: Genes) -> Coefficients:
        """The numbers of one pass, in float64 on the host; CandidateError where the genes allow no merge."""


def names() -> tuple[str, ...]:
    """Every method of this folder, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


@cache
def load(name: str) -> Method:
    """The method of this name; ConfigError names the nearest one for a misspelt name."""
    if name not in names():
        raise ConfigError(f"merge method {name!r} is not known{nearest(name, names())}; choose of {', '.join(names())}")
    return cast(Method, importlib.import_module(f"evomerge.methods.{name}"))


def normalizes(method: Method, settings: Mapping[str, Any]) -> bool:
    """Whether weights are divided by their sum, which makes their scale meaningless to a search."""
    return bool(settings.get("normalize", method.SHARED.get("normalize", False)))


def choose_options(name: str, chosen: Mapping[str, str]) -> dict[str, str]:
    """Every option of the method with its value; an unknown option or value is a ConfigError."""
    known = load(name).OPTIONS
    for key, value in chosen.items():
        if key not in known:
            raise ConfigError(f"method {name} has no option {key!r}{nearest(key, known)}; it has {list(known)}")
        if value not in known[key]:
            raise ConfigError(f"method {name}: option {key}={value} is not one of {', '.join(known[key])}")
    return {key: chosen.get(key, values[0]) for key, values in known.items()}


def exactness(name: str, options: Mapping[str, str]) -> Exactness:
    """The method's grade; a published variant that mergekit lacks is `native`."""
    method = load(name)
    default = all(options.get(key, values[0]) == values[0] for key, values in method.OPTIONS.items())
    return method.EXACTNESS if default else "native"
