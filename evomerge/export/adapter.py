"""A merge of adapters as one LoRA adapter that peft loads: their factors side by side, or cut to a rank by SVD.

Σ cᵢ·sᵢ·BᵢAᵢ = [c₁s₁B₁ | c₂s₂B₂ …]·[A₁; A₂; …], so a linear combination whose coefficients, the base's among them, sum
to 1 is base + one low-rank update, whatever the ranks, alphas and scalings of the experts. Factors are float32 in every
case: a coefficient folded into a half-precision factor would be rounded away.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evomerge.errors import CandidateError, ConfigError
from evomerge.export.card import adapter_card
from evomerge.export.folder import open_recipe
from evomerge.export.peft_format import Modules, write_weights
from evomerge.export.staging import staged
from evomerge.kernels import Factors, LinComb, PerRow
from evomerge.merging import Input, Materializer, Part, TensorPlan
from evomerge.models import AdapterExpert, Family
from evomerge.recipes import ModelRef, Recipe, dump_recipe

REMEDY = "merge without --adapter"
TOLERANCE = 1e-9  # of a sum of float64 coefficients around 1


@dataclass(frozen=True)
class Product:
    """One tensor's update up @ down in the base's orientation, with what cutting its rank cost."""

    up: Tensor  # [rows, rank], fp32
    down: Tensor  # [rank, columns], fp32
    lost: float = 0.0  # squared Frobenius norm of what was cut off …
    norm: float = 0.0  # … and of the whole update; both 0 where nothing was asked to be cut


@dataclass(frozen=True)
class Summary:
    """What an exported adapter holds; errors are relative Frobenius norms of what the SVD cut off."""

    rank: int  # of the module with the highest
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
    """Build the adapter of a recipe or its file, evomerge's or mergekit's, in the folder `out`."""
    recipe, family = open_recipe(source, trust_remote_code)
    return export_adapter(recipe, family, out, rank=rank)


@torch.no_grad()
def export_adapter(recipe: Recipe, family: Family, out: Path, *, rank: int | None = None) -> Summary:
    """Write the folder: exact, or each module's best approximation of rank `rank` where it has more.

    ConfigError where the merge is not base + low-rank updates, or has none; otherwise as `export_recipe`.
    """
    if rank is not None and rank < 1:
        raise ConfigError(f"--rank {rank}: give a rank of 1 or more")
    _refuse_others(recipe, family)
    with staged(out) as folder:
        products = _products(recipe, family, rank)
        summary = _summary(products)
        factors = {family.base.parameter[name]: (product.up, product.down) for name, product in products.items()}
        write_weights(Modules(family.base), family.ref, factors, family.base.tied(factors), folder)
        (folder / "recipe.yaml").write_text(dump_recipe(recipe))
        (folder / "README.md").write_text(adapter_card(recipe, family.ref, str(summary), rank))
    return summary


def _products(recipe: Recipe, family: Family, rank: int | None) -> dict[str, Product]:
    """The update of every tensor that changes; ConfigError where none does."""
    made = {name: _product(name, terms, rank) for name, terms in _all_terms(recipe, family) if terms}
    found = {name: product for name, product in made.items() if product.up.shape[1]}
    if not found:
        raise ConfigError("the recipe's coefficients leave every tensor as the base has it: no adapter to export")
    return found


def _refuse_others(recipe: Recipe, family: Family) -> None:
    for ref in recipe.models():
        own_base = ModelRef(ref.path, ref.revision) == family.ref
        if ref != family.ref and not (own_base and isinstance(family.experts[ref], AdapterExpert)):
            raise ConfigError(f"{ref}: not an adapter on {family.ref}, so the merge is no adapter either; {REMEDY}")


def _all_terms(recipe: Recipe, family: Family) -> Iterator[tuple[str, list[tuple[float, Factors]]]]:
    """Every tensor of the base with the weighted factors that the merge adds to it."""
    left = set(family.layout.names)
    for part in Materializer(family, compiled=False).parts(recipe):
        at, weights = part.plan, _weights(recipe.method, part)
        weighted = list(zip((at.base, *at.experts), weights, strict=True))
        total = sum(weights)
        if not abs(total - 1.0) <= TOLERANCE:  # NaN too
            raise ConfigError(f"{at.name}: base and experts are weighed {total:.6g} in all, not 1; {REMEDY}")
        left.discard(at.name)
        yield at.name, list(_terms(family, at, weighted))
    if left:
        raise ConfigError(f"slices: {min(left)} is left out, an adapter keeps every layer; {REMEDY}")


def _terms(family: Family, at: TensorPlan, weighted: Sequence[tuple[Input, float]]) -> Iterator[tuple[float, Factors]]:
    for source, weight in weighted:
        if not weight:
            continue
        if source.name != at.name:
            raise ConfigError(f"slices: {at.name} comes from {source.name}, an adapter moves no layer; {REMEDY}")
        update = family.update(source.model, source.name)
        if isinstance(update, Tensor):
            whole = "changed by more than LoRA factors (DoRA, a trained bias or token, a saved module)"
            raise ConfigError(f"{source.model}: {at.name} is {whole}; {REMEDY}")
        if update is not None:
            yield weight, update


def _weights(method: str, part: Part) -> list[float]:
    """The weights of the base and of each expert in one tensor."""
    found = part.coefficients
    weights = (found.base, *found.experts) if isinstance(found, LinComb) and not found.directions else ()
    numbers = [weight for weight in weights if not isinstance(weight, PerRow)]
    if len(numbers) != 1 + len(part.plan.experts):
        raise ConfigError(f"method {method}: {part.name} is no weighted sum of the experts; {REMEDY}")
    return numbers


def _product(name: str, terms: Sequence[tuple[float, Factors]], rank: int | None) -> Product:
    up = torch.cat([factors.up.double() * (weight * factors.scale) for weight, factors in terms], dim=1)
    down = torch.cat([factors.down.double() for _, factors in terms])
    if not (torch.isfinite(up).all() and torch.isfinite(down).all()):
        raise CandidateError(f"{name}: the factors of the merge are not finite; look for NaN in the experts")
    return Product(up.float(), down.float()) if rank is None else _cut(up, down, rank)


def _cut(up: Tensor, down: Tensor, rank: int) -> Product:
    """The best approximation of up @ down at that rank (Eckart and Young 1936); exact where it has no more.

    The QR factors of both sides leave a core of the factors' rank to decompose: nothing of the weight's size is made.
    """
    left_basis, left = torch.linalg.qr(up)
    right_basis, right = torch.linalg.qr(down.T)
    core = left @ right.T
    norm = float(core.square().sum())
    if up.shape[1] <= rank:
        return Product(up.float(), down.float(), 0.0, norm)
    rotate_left, values, rotate_right = torch.linalg.svd(core, full_matrices=False)
    # Below the rounding of the core's own sums a value is noise: what cancels or is shared needs no rank.
    noise = len(values) * torch.finfo(values.dtype).eps * float(left.norm() * right.norm())
    values = values[values > noise]
    kept = min(rank, len(values))
    roots = values[:kept].sqrt()  # shared evenly, so that neither factor leaves the range of half precision
    new_up = left_basis @ (rotate_left[:, :kept] * roots)
    new_down = (rotate_right[:kept] * roots[:, None]) @ right_basis.T
    return Product(new_up.float(), new_down.float(), float(values[kept:].square().sum()), norm)


def _summary(products: Mapping[str, Product]) -> Summary:
    errors = {
        name: math.sqrt(product.lost / product.norm) if product.norm else 0.0 for name, product in products.items()
    }
    worst = max(errors, key=errors.__getitem__)
    norm = sum(product.norm for product in products.values())
    total = math.sqrt(sum(product.lost for product in products.values()) / norm) if norm else 0.0
    rank = max(product.up.shape[1] for product in products.values())
    return Summary(rank, len(products), total, errors[worst], worst)
