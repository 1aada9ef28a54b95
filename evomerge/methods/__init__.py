"""Merge methods: one file each, found by being in this folder; the file's name is the method's name.

A method never touches the optimizer, the pool or the device. Its module says: GENES (what a search may tune), SHARED,
PER_EXPERT and BASE (every parameter of a recipe with its default; None means that it must be given), EXPERTS (how many
it takes), BASE_MODEL (whether a recipe may do without one), EXACTNESS (how a recipe of it can be rebuilt elsewhere),
OPTIONS (published variants, the default first), ADAPTERS_ONLY, BANKS_OF_ALL and EXTENSIONS where they hold, `prepare`
and `coefficients`.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Protocol, cast

from torch import Tensor

from evomerge.errors import ConfigError
from evomerge.kernels import Coefficients, Sources
from evomerge.schema import shown
from evomerge.suggest import nearest

Exactness = Literal["exact", "frozen-linear", "distribution-only", "native"]
BaseModel = Literal["required", "optional"]
Values = Mapping[str, float | bool]
State = dict[str, Tensor]
DECIMALS = 6  # of a decoded value: far below what a merge can tell apart, and readable in YAML


@dataclass(frozen=True)
class Gene:
    """A named coefficient: its natural range, its textbook default, and whether each expert has its own.

    `base` is the value at which the method returns its base, for a gene that decides that. A search moves in steps of
    10^-decimals, so that what is prepared for a grid of values serves every candidate.
    """

    name: str
    low: float
    high: float
    default: float
    per: Literal["expert", "group"] = "expert"
    base: float | None = None
    decimals: int = DECIMALS


@dataclass(frozen=True)
class Genes:
    """The values of one tensor: `experts[i]` for the i-th expert, `base` for the base, `shared` for all."""

    shared: Values
    experts: tuple[Values, ...]
    base: Values


@dataclass(frozen=True, eq=False)
class Whole:
    """All tensors of a merge, for methods that need more than one of them to know; `memo` is shared by the tensors."""

    sources: Callable[[], Iterable[Sources]]
    memo: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Setup:
    """One tensor's merge without its genes: what goes in, how, and what was prepared.

    `based` tells whether the recipe names a base model; where it does not, the first model stands as `sources.base`.
    `depth` is the relative depth 0 … 1 in the layer stack, None for a tensor outside every stack. `memo` keeps what a
    method finds on demand.
    """

    sources: Sources
    options: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    based: bool = True
    depth: float | None = None
    given: Whole | None = None
    memo: dict[Any, Any] = field(default_factory=dict)

    @property
    def whole(self) -> Whole:
        """The merge that this tensor belongs to; a tensor on its own is one."""
        return self.given or Whole(lambda: [self.sources], self.memo)

    @property
    def state(self) -> Mapping[str, Tensor]:
        """What `prepare` returned."""
        return self.sources.prepared


class Method(Protocol):
    """What a module in this folder provides."""

    GENES: tuple[Gene, ...]
    SHARED: Mapping[str, float | bool | None]
    PER_EXPERT: Mapping[str, float | None]
    BASE: tuple[str, ...]
    BASE_MODEL: BaseModel
    EXPERTS: tuple[int, int]
    EXACTNESS: Exactness
    OPTIONS: Mapping[str, tuple[str, ...]]
    ADAPTERS_ONLY: bool = False  # experts are LoRA adapters of the base; a module that does not say takes any
    BANKS_OF_ALL: bool = False  # its banks depend on which experts take part, so that a search cannot vary them
    EXTENSIONS: tuple[str, ...] = ()  # parameters that mergekit's method of the same name does not read

    def prepare(self, setup: Setup) -> State:
        """What does not depend on the genes, once per tensor and family; kept on disk, so tensors only.

        Small tables are on the host; a tensor as large as a weight (a bank) is in the base's dtype.
        """

    def coefficients(self, setup: Setup, genes: Genes) -> Coefficients:
        """The numbers of one pass, in float64 on the host; CandidateError where the genes allow no merge."""


def names() -> tuple[str, ...]:
    """Every method of this folder, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


@cache
def load(name: str) -> Method:
    """The method of this name; ConfigError names the nearest one for a misspelt name."""
    if name not in names():
        quoted = f"'{shown(name)}'" if name else "''"
        raise ConfigError(f"merge method {quoted} is not known{nearest(name, names())}; choose of {', '.join(names())}")
    return cast(Method, importlib.import_module(f"evomerge.methods.{name}"))


def adapters_only(method: Method) -> bool:
    """Whether the method merges the factors of LoRA adapters, so that nothing else can be an expert of it."""
    return bool(getattr(method, "ADAPTERS_ONLY", Method.ADAPTERS_ONLY))


def banks_of_all(method: Method) -> bool:
    """Whether each set of experts needs banks of its own, each as large as a model."""
    return bool(getattr(method, "BANKS_OF_ALL", Method.BANKS_OF_ALL))


def extensions(method: Method) -> tuple[str, ...]:
    """The parameters that mergekit's method of the same name does not read."""
    return tuple(getattr(method, "EXTENSIONS", Method.EXTENSIONS))


def normalizes(method: Method, settings: Mapping[str, Any]) -> bool:
    """Whether only the ratios of the weights count, which makes their common scale meaningless to a search.

    A method has a switch for it, or, where it has weights and no switch, always does so.
    """
    switch = next((key for key in ("normalize", "normalize_weights") if key in method.SHARED), None)
    if switch is None:
        return "weight" in method.PER_EXPERT
    return bool(settings.get(switch, method.SHARED[switch]))


def choose_options(name: str, chosen: Mapping[str, str]) -> dict[str, str]:
    """Every option of the method with its value; an unknown option or value is a ConfigError."""
    known = load(name).OPTIONS
    for key, value in chosen.items():
        if key not in known:
            raise ConfigError(f"method {name} has no option '{shown(key)}'{nearest(key, known)}; it has {list(known)}")
        if value not in known[key]:
            raise ConfigError(f"method {name}: option {key}={shown(value)} is not one of {', '.join(known[key])}")
    return {key: chosen.get(key, values[0]) for key, values in known.items()}


def exactness(name: str, options: Mapping[str, str]) -> Exactness:
    """The method's grade; a published variant that mergekit lacks is `native`."""
    method = load(name)
    default = all(options.get(key, values[0]) == values[0] for key, values in method.OPTIONS.items())
    return method.EXACTNESS if default else "native"
