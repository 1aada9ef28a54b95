"""Merge methods: one file each, found by being in this folder; the file's name is the method's name.

A method never touches the optimizer, the pool or the device. Its module says: GENES (what a search may tune), SHARED,
PER_EXPERT and BASE (every parameter of a recipe with its default; None means that it must be given), EXPERTS (how many
it takes), BASE_MODEL (whether a recipe may do without one), EXACTNESS (how a recipe of it can be rebuilt elsewhere),
OPTIONS (published variants, the default first), ADAPTERS_ONLY, BANKS_DEPEND_ON_EXPERTS, ONE_SOURCE and EXTENSIONS where
they hold, `prepare` and `coefficients`. `Method` in _contract.py documents them. Files that begin with `_` are shared.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.methods._contract import (
        DECIMALS,
        BaseModel,
        Exactness,
        Gene,
        Genes,
        Method,
        Owner,
        Setup,
        State,
        WholeModel,
    )
    from evomerge.methods._registry import (
        adapters_only,
        banks_depend_on_experts,
        check,
        choose_options,
        copies_one_model,
        exactness,
        extensions,
        load,
        names,
        normalizes,
    )
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "DECIMALS",
    "BaseModel",
    "Exactness",
    "Gene",
    "Genes",
    "Method",
    "Owner",
    "Setup",
    "State",
    "WholeModel",
    "adapters_only",
    "banks_depend_on_experts",
    "check",
    "choose_options",
    "copies_one_model",
    "exactness",
    "extensions",
    "load",
    "names",
    "normalizes",
]
