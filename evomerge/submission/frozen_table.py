"""A recipe as a table of frozen numbers and, where numbers do not suffice, of tensors that are shipped with it.

The table is what kit_files/evomerge_tensors.py reads: for every output tensor the places of its inputs in the models'
files, and the coefficients that the method computed.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.kernels import Consensus, LinComb, LowRank, Vote
from evomerge.merging import InputTensor, Materializer, TensorMerge
from evomerge.models import Family, StoredFactors, torch_dtype
from evomerge.recipes import ModelRef, Recipe

FORMS = {
    "sum": "sums of tensors with frozen coefficients",
    "vote": "votes with frozen thresholds and weights",
    "factors": "low-rank factors, which are shipped",
    "stored": "merged tensors, which are shipped",
}


@dataclass
class FrozenTable:
    """The models that the pack loads, an entry for each output tensor, and the tensors that are shipped, by name.

    `reasons` counts the tensors that had to be shipped whole, by reason.
    """

    models: list[dict[str, str | None]]
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    shipped: dict[str, Tensor] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)

    def forms(self) -> Iterator[str]:
        """A line for each form of entry: its number of tensors and its name."""
        for form, words in FORMS.items():
            if count := sum(form in entry for entry in self.entries.values()):
                yield f"{count} of {len(self.entries)} tensors: {words}"


def freeze_table(recipe: Recipe, family: Family, dtype: str) -> FrozenTable:
    """The table of a recipe without slices."""
    refs = [ref for ref in recipe.models() if ref != family.ref]
    table = FrozenTable([_place(family.ref), *map(_place, refs)])
    numbers = {family.ref: 0} | {ref: number for number, ref in enumerate(refs, 1)}
    materializer, whole = Materializer(family, compiled=False), set()
    for merge in materializer.tensor_merges(recipe):
        entry, reason = _entry(merge, family, numbers, table)
        if reason:
            whole.add(merge.name)
            table.reasons[reason] += 1
        table.entries[merge.name] = entry
    if whole:
        tensors = materializer.tensors(recipe, torch_dtype(dtype))
        table.shipped |= {name: tensor.clone() for name, tensor in tensors if name in whole}
    return table


def _place(ref: ModelRef) -> dict[str, str | None]:
    """Where a model, or an adapter, is loaded from; a folder by its absolute path."""
    path, revision = (ref.adapter, ref.adapter_revision) if ref.adapter else (ref.path, ref.revision)
    return {"path": str(Path(path).resolve()) if Path(path).is_dir() else path, "revision": revision}


def _entry(
    merge: TensorMerge, family: Family, numbers: dict[ModelRef, int], table: FrozenTable
) -> tuple[dict[str, Any], str | None]:
    """The entry of a tensor, and why its merged tensor has to be shipped, or None."""
    found, plan = merge.coefficients, merge.plan
    stored: dict[str, Any] = {"stored": merge.name}
    if plan.base.model != family.ref:
        return stored, "the base of the recipe is itself a base with an adapter"
    base = {"base": family.base.stored_name(plan.base.name)}
    if isinstance(found, LowRank):
        _ship_factors(merge, found, table)
        return {**base, "factors": merge.name}, None
    experts = [_input(source, family, numbers) for source in plan.experts]
    if "computed" in experts:
        return stored, "an adapter of another kind than plain LoRA, or an expert with other rows or quantised files"
    inputs = {**base, "experts": experts}
    if isinstance(found, LinComb):
        weights = (found.base, *found.experts)
        if found.directions or not all(isinstance(weight, int | float) for weight in weights):
            return stored, "coefficients that differ from row to row, or directions that the method computed"
        return {**inputs, "sum": list(weights)}, None
    if isinstance(found.rule, Vote) and not found.bank:
        return {**inputs, "vote": _vote(found.rule, found)}, None
    return stored, "a rule that reads tables of the method"


def _vote(rule: Vote, found: Consensus) -> dict[str, Any]:
    kinds = {"kind": rule.kind, "elect": rule.elect, "normalize": rule.normalize}
    rules = {**kinds, "sign": rule.sign, "divisor": rule.divisor}
    return {**rules, "numbers": list(found.numbers), "words": list(found.words)}


def _input(source: InputTensor, family: Family, numbers: dict[ModelRef, int]) -> dict[str, Any] | str | None:
    found = family.stored_input(source.model, source.name)
    if isinstance(found, str):
        return None if found == "base" else found
    number = {"model": numbers[source.model]}
    if isinstance(found, StoredFactors):
        sides = {"up": found.up, "down": found.down}
        return {**number, **sides, "scale": found.scale, "transposed": found.transposed}
    return {**number, "key": found.key}


def _ship_factors(merge: TensorMerge, found: LowRank, table: FrozenTable) -> None:
    sources = merge.setup.sources
    core = torch.from_numpy(found.core).to(torch.float32)
    table.shipped[f"{merge.name}.up"] = sources.bank("up").float() @ core
    table.shipped[f"{merge.name}.down"] = sources.bank("down").float().contiguous()


def is_local(models: Sequence[dict[str, str | None]]) -> bool:
    """Whether one of the models is a folder of this machine."""
    return any(Path(str(model["path"])).is_absolute() for model in models)
