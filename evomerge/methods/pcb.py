"""PCB: parameters of the experts compete, and the few that win are kept (Du et al., NeurIPS 2024, arXiv 2410.02396).

The authors released three variants, none of them with the paper's softmax. The option `variant` selects one of them:
pcb-merging.py ("main"), vision_source_code/pcb_ES.py ("es") or pcb.py ("vision"). They differ in the term for the
agreement of the experts. `ratio` is the fraction of each expert's elements that win. Minima, maxima and thresholds are
those of the whole model, as in the authors' code.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from evomerge.kernels import LinComb, Sources
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State
from evomerge.methods._order_statistics import order_statistics

# Few elements are kept, so scales above 1 are usual: the authors search λ from 0.8 to 2.2.
GENES = (Gene("alpha", 0.0, 2.5, 1.0, base=0.0),)
SHARED: Mapping[str, float | bool | None] = {}
PER_EXPERT: Mapping[str, float | None] = {"alpha": None}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 80)  # exp(N) must be finite in fp32
EXACTNESS: Exactness = "native"
BANKS_DEPEND_ON_EXPERTS = True
OPTIONS: Mapping[str, tuple[str, ...]] = {"variant": ("main", "es", "vision"), "ratio": ("0.1", "0.05", "0.2")}

TAIL = {"main": 1e-4, "es": 1e-2, "vision": 1e-2}  # fraction of the magnitudes clipped at either end
BLOCK = 1 << 18


def prepare(setup: Setup) -> State:
    """`bank.direction.i`: sᵢ·δ̃ᵢ / Σ sⱼ, where δ̃ are clipped task vectors and s scores in 0 … 1."""
    sources, (sizes, scores) = setup.sources, _bounds(setup)
    out = torch.empty(len(sources), sources.shape.numel(), dtype=sources.base.dtype, device=sources.device)
    first = 0
    for raw in _blocks(sources):
        deltas = _finite(raw)
        won = _minmax(_score(deltas, sizes, setup.options["variant"]).double(), scores)
        directions = won * deltas.sign() * _clip(deltas.abs(), sizes) / _total(won).clamp(min=1e-12)
        # Clipping and scores of 0 would hide NaN and infinity; adding raw·0 keeps them visible.
        out[:, first : first + raw.shape[1]] = directions + _total(raw * 0.0)
        first += raw.shape[1]
    return {f"bank.direction.{i}": row.reshape(sources.shape).clone() for i, row in enumerate(out)}


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """θ₀ + Σ αᵢDᵢ with the prepared directions."""
    return LinComb(1.0, (0.0,) * len(genes.experts), tuple(float(values["alpha"]) for values in genes.experts))


def _bounds(setup: Setup) -> tuple[Tensor, Tensor]:
    """The lower and upper clipping bounds of the whole model's magnitudes and scores, float64 [experts, 2] each."""
    variant, ratio = setup.options["variant"], float(setup.options["ratio"])
    key, memo = ("pcb", variant, ratio), setup.model.memo
    if key not in memo:
        tail = TAIL[variant]

        def blocks() -> Iterator[Tensor]:
            return (_finite(block) for sources in setup.model.sources() for block in _blocks(sources))

        sizes = order_statistics(
            lambda: (block.abs().float() for block in blocks()), lambda d: (int(d * tail), int(d * (1 - tail) - 1))
        )
        scores = order_statistics(
            lambda: (_score(block, sizes, variant) for block in blocks()), lambda d: (int(d * (1 - ratio)), d - 1)
        )
        memo[key] = sizes, scores
    bounds: tuple[Tensor, Tensor] = memo[key]
    return bounds


def _blocks(sources: Sources) -> Iterator[Tensor]:
    """The task vectors as rows of float64, block by block."""
    flat = [sources.delta(i).flatten() for i in range(len(sources))]
    for first in range(0, flat[0].numel(), BLOCK):
        yield torch.stack([delta[first : first + BLOCK] for delta in flat]).double()


def _score(deltas: Tensor, sizes: Tensor, variant: str) -> Tensor:
    """exp(N·n²)·agreement, where n is |δ| scaled to 0 … 1 over the model; fp32, so that order statistics are exact."""
    unit = _minmax(deltas.abs(), sizes)
    signed = deltas.sign() * unit
    if variant == "main":
        agreement = torch.tanh(deltas * _total(deltas))
    elif variant == "vision":
        agreement = torch.tanh(deltas * _total(signed))
    else:
        agreement = torch.stack([_total(torch.tanh(row * signed)) for row in signed])
    return ((unit.square() * len(deltas)).exp() * agreement).float()


def _minmax(rows: Tensor, bounds: Tensor) -> Tensor:
    """Rows clipped to their bounds and scaled to 0 … 1; 0 if the bounds are equal (the authors' code has NaN)."""
    bounds = bounds.to(rows.device)
    span = bounds[:, 1:] - bounds[:, :1]
    return (_clip(rows, bounds) - bounds[:, :1]) / torch.where(span > 0, span, 1.0)


def _clip(rows: Tensor, bounds: Tensor) -> Tensor:
    bounds = bounds.to(rows.device)
    return rows.clamp(bounds[:, :1], bounds[:, 1:])


def _finite(rows: Tensor) -> Tensor:
    """NaN and infinity replaced by 0, so that they do not affect the statistics of the whole model."""
    return torch.where(rows.isfinite(), rows, 0.0)


def _total(rows: Tensor) -> Tensor:
    """The sum of the rows in their order, so that its bits are fixed."""
    total: Tensor = rows[0]
    for row in rows[1:]:
        total = total + row
    return total
