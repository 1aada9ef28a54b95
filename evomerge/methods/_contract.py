"""The interface of a merge method: what its module defines, and the arguments that its functions receive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # genes and their names are read without torch
    from torch import Tensor

    from evomerge.kernels import Coefficients, Sources

Exactness = Literal["exact", "frozen-linear", "distribution-only", "native"]
BaseModel = Literal["required", "optional"]
Values = Mapping[str, float | bool]
State: TypeAlias = "dict[str, Tensor]"
Owner = tuple[str, int | None]  # a gene, and the place of its expert in the recipe; None if all share it
FloatArray = NDArray[np.float64]
DECIMALS = 6  # of a decoded value: finer than any difference that matters to a merge, and readable in YAML


@dataclass(frozen=True)
class Gene:
    """A named coefficient with its range and textbook default, either one per expert or one per tensor group.

    `base` is the value at which the method returns its base, if this gene alone can have that effect. A search rounds
    values to `decimals`, so that tables prepared for a grid of values serve every candidate. A gene that selects
    elements, such as a density, has no `slope`: a small step changes nothing, or which elements are selected. A gene
    with `values` takes only these, and no slope.
    """

    name: str
    low: float
    high: float
    default: float
    per: Literal["expert", "group"] = "expert"
    base: float | None = None
    decimals: int = DECIMALS
    slope: bool = True
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Genes:
    """The values of one tensor: `experts[i]` of the i-th expert, `base` of the base, `shared` of all models."""

    shared: Values
    experts: tuple[Values, ...]
    base: Values


@dataclass(frozen=True, eq=False)
class WholeModel:
    """All tensors of a merge, for methods with statistics over the whole model; `memo` is shared by the tensors."""

    sources: Callable[[], Iterable[Sources]]
    memo: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Setup:
    """One tensor's merge without its genes: the input tensors, the method's options and the prepared state.

    `has_base` says whether the recipe names a base model; if not, `sources.base` is the first model. `depth` is the
    relative depth 0 … 1 in the layer stack, or None for a tensor outside every stack. `memo` caches values that a
    method computes on demand.
    """

    sources: Sources
    options: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    has_base: bool = True
    depth: float | None = None
    whole_model: WholeModel | None = None
    memo: dict[Any, Any] = field(default_factory=dict)

    @property
    def model(self) -> WholeModel:
        """All tensors of the merge; this tensor alone if no `whole_model` is set."""
        return self.whole_model or WholeModel(lambda: [self.sources], self.memo)

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The tensors that `prepare` returned."""
        return self.sources.prepared


class Method(Protocol):
    """The names that a method's module defines."""

    GENES: tuple[Gene, ...]
    SHARED: Mapping[str, float | bool | None]
    PER_EXPERT: Mapping[str, float | None]
    BASE: tuple[str, ...]
    BASE_MODEL: BaseModel
    EXPERTS: tuple[int, int]
    EXACTNESS: Exactness
    OPTIONS: Mapping[str, tuple[str, ...]]
    ADAPTERS_ONLY: bool = False  # True: every expert must be a LoRA adapter of the base
    BANKS_DEPEND_ON_EXPERTS: bool = False  # True: each set of experts needs banks of its own
    ONE_SOURCE: bool = False  # True: each slice copies one model, so there is nothing to merge in a layer
    EXTENSIONS: tuple[str, ...] = ()  # parameters that mergekit's method of the same name does not read

    def prepare(self, setup: Setup) -> State:
        """Everything that does not depend on the genes, computed once per tensor and family.

        The tensors may be stored on disk. Small tables are on the host. A bank, a tensor as large as a weight, has the
        base's dtype and a name `bank.…`.
        """

    def coefficients(self, setup: Setup, genes: Genes) -> Coefficients:
        """The coefficients of one pass, in float64 on the host; CandidateError if these genes cannot be merged."""
