"""What routers are fitted to, as values that can be sent to a worker."""

from dataclasses import dataclass

from evomerge.recipes import ModelRef

SHRINKAGE = 0.9  # share of the full curvature beside its diagonal; the value of the paper's experiments


@dataclass(frozen=True)
class RouterDomain:
    """Texts as token ids, and the model whose routers decide best for them."""

    model: ModelRef
    rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class RouterWork:
    """The domains of a calibration; each counts equally, whatever its number of tokens."""

    domains: tuple[RouterDomain, ...]
    shrinkage: float = SHRINKAGE
