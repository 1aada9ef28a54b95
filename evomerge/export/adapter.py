"""Exports a merge of adapters as one LoRA adapter for peft: concatenated factors, or their truncation by SVD.

Σ cᵢ·sᵢ·BᵢAᵢ = [c₁s₁B₁ | c₂s₂B₂ …]·[A₁; A₂; …]. A linear combination whose coefficients, including the base's, sum to 1
is therefore base + one low-rank update, for all ranks, alphas and scalings of the experts. Factors are always float32,
because multiplying a half-precision factor by a coefficient would round it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evomerge.errors import CandidateError, ConfigError
from evomerge.export.card import adapter_card
from evomerge.export.evidence import Evidence, find_evidence
from evomerge.export.folder import open_recipe
from evomerge.export.peft_format import Modules, write_weights
from evomerge.export.reproduction import REPRODUCE, adapter_options, reproduction
from evomerge.export.staging import atomic_folder
from evomerge.kernels import Factors, LinComb, PerRow
from evomerge.merging import InputTensor, Materializer, TensorMerge, TensorPlan
from evomerge.models import AdapterExpert, Family
from evomerge.recipes import ModelRef, Recipe, dump_recipe

REMEDY = "merge without --adapter"
TOLERANCE = 1e-9  # allowed difference of the sum of coefficients from 1


@dataclass(frozen=True)
class LowRankUpdate:
    """One tensor's update up @ down in the base's orientation, with the error of its truncation."""

    up: Tensor  # [rows, rank], fp32
    down: Tensor  # [rank, columns], fp32
    lost: float = 0.0  # squared Frobenius norm of the truncated part
    norm: float = 0.0  # squared Frobenius norm of the whole update; both are 0 without a rank limit


@dataclass(frozen=True)
class Summary:
    """Figures of an exported adapter; errors are relative Frobenius norms of the truncated parts."""

    rank: int  # the highest rank of a module
    tensors: int
    error: float
    worst: float
    worst_name: str

    def __str__(self) -> str:
        lost = f"relative error {self.error:.2g}, at most {self.worst:.2g} ({self.worst_name})"
        return f"rank {self.rank}, {self.tensors} tensors, {lost if self.worst else 'exact'}"


def merge_adapter(
    source: Path | Recipe, out: Path, *, rank: int | None = None, trust_remote_code: bool = False
) -> Summary:
    """Build the adapter of a recipe, or of a recipe file of evomerge or mergekit, in the new folder `out`."""
    recipe, family = open_recipe(source, trust_remote_code)
    return export_adapter(recipe, family, out, rank=rank, evidence=find_evidence(source, recipe))


@torch.no_grad()
def export_adapter(
    recipe: Recipe, family: Family, out: Path, *, rank: int | None = None, evidence: Evidence | None = None
) -> Summary:
    """Write the adapter's folder; with `rank`, updates of a higher rank are replaced by their best approximation.

    ConfigError if the merge is not base + low-rank updates or changes nothing; other errors as in `export_recipe`.
    """
    if rank is not None and rank < 1:
        raise ConfigError(f"--rank {rank}: give a rank of 1 or more")
    _refuse_others(recipe, family)
    with atomic_folder(out) as folder:
        products = _products(recipe, family, rank)
        summary = _summary(products)
        factors = {family.base.parameter[name]: (product.up, product.down) for name, product in products.items()}
        write_weights(Modules(family.base), family.ref, factors, family.base.tied(factors), folder)
        (folder / "recipe.yaml").write_text(dump_recipe(recipe))
        found = evidence or Evidence()
        (folder / "README.md").write_text(adapter_card(recipe, family.ref, str(summary), rank, out.name, found))
        options, scored = adapter_options(True, rank), str(recipe.notes.get("fingerprint", ""))
        (folder / REPRODUCE).write_text(reproduction(recipe, family, scored, found, options))
    return summary


def _products(recipe: Recipe, family: Family, rank: int | None) -> dict[str, LowRankUpdate]:
    """The update of every changed tensor; ConfigError if no tensor changes."""
    updates = {name: _product(name, terms, rank) for name, terms in _all_terms(recipe, family) if terms}
    nonzero = {name: update for name, update in updates.items() if update.up.shape[1]}
    if not nonzero:
        raise ConfigError("the recipe's coefficients leave every tensor as the base has it: no adapter to export")
    return nonzero


def _refuse_others(recipe: Recipe, family: Family) -> None:
    if family.vocabulary:
        raise ConfigError(f"tokenizer: the merge has other rows than {family.ref}, so it is no adapter; {REMEDY}")
    for ref in recipe.models():
        is_on_base = ModelRef(ref.path, ref.revision) == family.ref
        if ref != family.ref and not (is_on_base and isinstance(family.experts[ref], AdapterExpert)):
            raise ConfigError(f"{ref}: not an adapter on {family.ref}, so the merge is no adapter either; {REMEDY}")


def _all_terms(recipe: Recipe, family: Family) -> Iterator[tuple[str, list[tuple[float, Factors]]]]:
    """Every tensor of the base with the weighted factors that the merge adds to it."""
    remaining = set(family.layout.names)
    for merge in Materializer(family, compiled=False).tensor_merges(recipe):
        plan, weights = merge.plan, _weights(recipe.method, merge)
        weighted = list(zip((plan.base, *plan.experts), weights, strict=True))
        total = sum(weights)
        if not abs(total - 1.0) <= TOLERANCE:  # true for NaN
            raise ConfigError(f"{plan.name}: base and experts are weighed {total:.6g} in all, not 1; {REMEDY}")
        remaining.discard(plan.name)
        yield plan.name, list(_terms(family, plan, weighted))
    if remaining:
        raise ConfigError(f"slices: {min(remaining)} is left out, an adapter keeps every layer; {REMEDY}")


def _terms(
    family: Family, plan: TensorPlan, weighted: Sequence[tuple[InputTensor, float]]
) -> Iterator[tuple[float, Factors]]:
    for source, weight in weighted:
        if not weight:
            continue
        if source.name != plan.name:
            raise ConfigError(f"slices: {plan.name} comes from {source.name}, an adapter moves no layer; {REMEDY}")
        update = family.update(source.model, source.name)
        if isinstance(update, Tensor):
            whole = "changed by more than LoRA factors (DoRA, a trained bias or token, a saved module)"
            raise ConfigError(f"{source.model}: {plan.name} is {whole}; {REMEDY}")
        if update is not None:
            if not family.base.destination[plan.name].whole:
                raise ConfigError(f"{plan.name} is a part of {family.base.parameter[plan.name]}; {REMEDY}")
            yield weight, update


def _weights(method: str, merge: TensorMerge) -> list[float]:
    """The weights of the base and of each expert in one tensor."""
    found = merge.coefficients
    weights = (found.base, *found.experts) if isinstance(found, LinComb) and not found.directions else ()
    numbers = [weight for weight in weights if not isinstance(weight, PerRow)]
    if len(numbers) != 1 + len(merge.plan.experts):
        raise ConfigError(f"method {method}: {merge.name} is no weighted sum of the experts; {REMEDY}")
    return numbers


def _product(name: str, terms: Sequence[tuple[float, Factors]], rank: int | None) -> LowRankUpdate:
    up = torch.cat([factors.up.double() * (weight * factors.scale) for weight, factors in terms], dim=1)
    down = torch.cat([factors.down.double() for _, factors in terms])
    if not (torch.isfinite(up).all() and torch.isfinite(down).all()):
        raise CandidateError(f"{name}: the factors of the merge are not finite; look for NaN in the experts")
    return LowRankUpdate(up.float(), down.float()) if rank is None else _truncated(up, down, rank)


def _truncated(up: Tensor, down: Tensor, rank: int) -> LowRankUpdate:
    """The best approximation of up @ down with this rank (Eckart and Young 1936); exact if its rank is not higher.

    QR of both factors leaves a small core matrix for the SVD, so no matrix of the weight's size is computed.
    """
    left_basis, left = torch.linalg.qr(up)
    right_basis, right = torch.linalg.qr(down.T)
    core = left @ right.T
    norm = float(core.square().sum())
    if up.shape[1] <= rank:
        return LowRankUpdate(up.float(), down.float(), 0.0, norm)
    rotate_left, values, rotate_right = torch.linalg.svd(core, full_matrices=False)
    # Smaller singular values are rounding errors of the core, for example where updates cancel or coincide.
    noise = len(values) * torch.finfo(values.dtype).eps * float(left.norm() * right.norm())
    values = values[values > noise]
    kept = min(rank, len(values))
    roots = values[:kept].sqrt()  # split evenly, so that neither factor exceeds the range of half precision
    new_up = left_basis @ (rotate_left[:, :kept] * roots)
    new_down = (rotate_right[:kept] * roots[:, None]) @ right_basis.T
    return LowRankUpdate(new_up.float(), new_down.float(), float(values[kept:].square().sum()), norm)


def _summary(products: Mapping[str, LowRankUpdate]) -> Summary:
    errors = {
        name: math.sqrt(product.lost / product.norm) if product.norm else 0.0 for name, product in products.items()
    }
    worst = max(errors, key=errors.__getitem__)
    norm = sum(product.norm for product in products.values())
    total = math.sqrt(sum(product.lost for product in products.values()) / norm) if norm else 0.0
    rank = max(product.up.shape[1] for product in products.values())
    return Summary(rank, len(products), total, errors[worst], worst)
