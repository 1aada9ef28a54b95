"""PCB: parameters of the experts compete, and the few that win are kept (Du et al., NeurIPS 2024, arXiv 2410.02396).

The authors released three variants, none of them with the paper's softmax; `variant` names them: pcb-merging.py
("main"), vision_source_code/pcb_ES.py ("es") and pcb.py ("vision"). They differ in how experts agree. `ratio` is the
share of elements of each expert that win. Minima, maxima and thresholds are over the whole model, as there.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from evomerge.kernels import LinComb, Sources
from evomerge.methods import BaseModel, Exactness, Gene, Genes, Setup, State
from evomerge.methods._order_statistics import order_statistics

# So little is kept that scales above 1 are usual: the authors search from 0.8 to 2.2, their λ.
GENES = (Gene("alpha", 0.0, 2.5, 1.0, base=0.0),)
SHARED: Mapping[str, float | bool | None] = {}
PER_EXPERT: Mapping[str, float | None] = {"alpha": None}
BASE: tuple[str, ...] = ()
BASE_MODEL: BaseModel = "required"
EXPERTS = (1, 80)  # exp(N) has to fit in fp32
EXACTNESS: Exactness = "native"
BANKS_OF_ALL = True
OPTIONS: Mapping[str, tuple[str, ...]] = {"variant": ("main", "es", "vision"), "ratio": ("0.1", "0.05", "0.2")}

TAIL = {"main": 1e-4, "es": 1e-2, "vision": 1e-2}  # share of magnitudes that is clipped at either end
BLOCK = 1 << 18


def prepare(setup: Setup) -> State:
    """`bank.direction.i`: sᵢ·δ̃ᵢ / Σ sⱼ, with clipped task vectors δ̃ and scores s in 0 … 1."""
    sources, (sizes, scores) = setup.sources, _bounds(setup)
    out = torch.empty(len(sources), sources.shape.numel(), dtype=sources.base.dtype, device=sources.device)
    first = 0
    for raw in _blocks(sources):
        deltas = _finite(raw)
        won = _minmax(_score(deltas, sizes, setup.options["variant"]).double(), scores)
        directions = won * deltas.sign() * _clip(deltas.abs(), sizes) / _total(won).clamp(min=1e-12)
        # Clipping hides infinity, and a score of 0 anything: a broken element has to stay one.
        out[:, first : first + raw.shape[1]] = directions + _total(raw * 0.0)
        first += raw.shape[1]
    return {f"bank.direction.{i}": row.reshape(sources.shape).clone() for i, row in enumerate(out)}


def coefficients(setup: Setup, genes: Genes) -> LinComb:
    """θ₀ + Σ αᵢDᵢ with the prepared directions."""
    return LinComb(1.0, (0.0,) * len(genes.experts), tuple(float(values["alpha"]) for values in genes.experts))


def _bounds(setup: Setup) -> tuple[Tensor, Tensor]:
    """Where the whole model's magnitudes and scores are clipped, float64 [experts, 2] each."""
    variant, ratio = setup.options["variant"], float(setup.options["ratio"])
    key, memo = ("pcb", variant, ratio), setup.whole.memo
    if key not in memo:
        tail = TAIL[variant]

        def blocks() -> Iterator[Tensor]:
            return (_finite(block) for sources in setup.whole.sources() for block in _blocks(sources))

        sizes = order_statistics(
            lambda: (block.abs().float() for block in blocks()), lambda d: (int(d * tail), int(d * (1 - tail) - 1))
        )
        scores = order_statistics(
            lambda: (_score(block, sizes, variant) for block in blocks()), lambda d: (int(d * (1 - ratio)), d - 1)
        )
        memo[key] = sizes, scores
    found: tuple[Tensor, Tensor] = memo[key]
    return found


def _blocks(sources: Sources) -> Iterator[Tensor]:
    """The task vectors as rows of float64, block by block."""
    flat = [sources.delta(i).flatten() for i in range(len(sources))]
    for first in range(0, flat[0].numel(), BLOCK):
        yield torch.stack([delta[first : first + BLOCK] for delta in flat]).double()


def _score(deltas: Tensor, sizes: Tensor, variant: str) -> Tensor:
    """exp(N·n²)·agreement, with n = |δ| scaled to 0 … 1 over the model; fp32, so that places in it are exact."""
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
    """Rows clipped to their bounds and scaled to 0 … 1; zeros for a row without a span (the authors' code has NaN)."""
    bounds = bounds.to(rows.device)
    span = bounds[:, 1:] - bounds[:, :1]
    return (_clip(rows, bounds) - bounds[:, :1]) / torch.where(span > 0, span, 1.0)


def _clip(rows: Tensor, bounds: Tensor) -> Tensor:
    bounds = bounds.to(rows.device)
    return rows.clamp(bounds[:, :1], bounds[:, 1:])


def _finite(rows: Tensor) -> Tensor:
    """One broken element must not break the statistics, and so all tensors: the tensor it is in has to be named."""
    return torch.where(rows.isfinite(), rows, 0.0)


def _total(rows: Tensor) -> Tensor:
    """The rows' sum, in their order."""
    total: Tensor = rows[0]
    for row in rows[1:]:
        total = total + row
    return total
