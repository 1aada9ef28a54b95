"""What a file of this room says of its method, and what it is given when a tensor is merged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:  # genes and their names are read without torch
    from torch import Tensor

    from evomerge.kernels import Coefficients, Sources

Exactness = Literal["exact", "frozen-linear", "distribution-only", "native"]
BaseModel = Literal["required", "optional"]
Values = Mapping[str, float | bool]
State: TypeAlias = "dict[str, Tensor]"
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
