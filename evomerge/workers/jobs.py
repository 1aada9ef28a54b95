"""The values exchanged between the search and its workers, small enough to send to another machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evomerge.recipes import ModelRef, Recipe, TokenizerRequest
from evomerge.workers.model_config import ModelConfig

if TYPE_CHECKING:
    from evomerge.methods import Owner
    from evomerge.scoring.engine import EncodedChunk, EncodedLoss
    from evomerge.scoring.vllm import ServingPlan


@dataclass(frozen=True)
class WorkerSpec:
    """The arguments from which a worker is constructed; `prepared` is the folder of what methods have prepared.

    `losses` holds the differentiable losses of items, for a search that uses slopes. `gpu_bytes` is the memory of its
    GPU that a worker may use; None for all of it. `hashes` maps each model to the SHA-256 of its weights, by which a
    worker on another machine checks that it has the same models. `tokenizer` is the request of a merged vocabulary.
    `flow_bytes` is the memory of the layers that stay resident in a search over their order; 0 in other searches.
    With `serving`, vLLM generates the answers, and takes this memory.
    """

    base: ModelRef
    experts: tuple[ModelRef, ...]
    work: Mapping[str, "EncodedChunk"]  # chunk id → its tokenised requests
    model: ModelConfig
    prepared: str | None = None
    losses: Mapping[str, "EncodedLoss"] = field(default_factory=dict)
    gpu_bytes: int | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    tokenizer: TokenizerRequest | None = None
    flow_bytes: int = 0
    serving: "ServingPlan | None" = None

    @property
    def more_bytes(self) -> int:
        """The memory that a worker needs beside the live model and the sources."""
        return self.flow_bytes + (self.serving.nbytes if self.serving else 0)


@dataclass(frozen=True)
class SlopeWork:
    """Items whose weighted losses are summed, and the genes by which the sum is differentiated; none: losses alone.

    With `measure`, the price of the derivatives is measured as well.
    """

    items: tuple[str, ...]
    weights: tuple[float, ...]
    genes: tuple[str, ...] = ()
    measure: bool = False


@dataclass(frozen=True)
class Slopes:
    """The loss of each item, and the derivatives of their weighted sum with respect to a recipe's values.

    `sums` maps a gene and the place of its expert in the recipe (None if all share it) to one derivative per tensor.
    `price` is the cost of both in forward passes of the same items, in floating-point operations.
    """

    losses: tuple[float, ...]
    sums: Mapping["Owner", NDArray[np.float64]]
    price: float | None = None


@dataclass(frozen=True)
class Job:
    """One chunk to be scored for one candidate; `key` is the recipe's content key.

    With `slope`, the job is a part of a batch whose slopes are wanted, and `chunk` is a name of that part.
    """

    key: str
    recipe: Recipe
    chunk: str
    slope: SlopeWork | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of a job: raw responses in request order, or the reason why the candidate has failed.

    `seconds` is the time of the whole job, `write_seconds` that of writing the candidate into the model.
    """

    job: Job
    responses: list[Any] | None = None
    error: str | None = None
    seconds: float = 0.0
    slopes: Slopes | None = None
    write_seconds: float = 0.0
