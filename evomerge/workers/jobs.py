"""The values exchanged between the search and its workers, small enough to send to another machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.recipes import ModelRef, Recipe
from evomerge.workers.model_config import ModelConfig

if TYPE_CHECKING:
    from evomerge.scoring.engine import EncodedChunk


@dataclass(frozen=True)
class WorkerSpec:
    """The arguments from which a worker is constructed; `prepared` is the folder of what methods have prepared."""

    base: ModelRef
    experts: tuple[ModelRef, ...]
    work: Mapping[str, "EncodedChunk"]  # chunk id → its tokenised requests
    model: ModelConfig
    prepared: str | None = None


@dataclass(frozen=True)
class Job:
    """One chunk to be scored for one candidate; `key` is the recipe's content key."""

    key: str
    recipe: Recipe
    chunk: str


@dataclass(frozen=True)
class Outcome:
    """The result of a job: raw responses in request order, or the reason why the candidate has failed."""

    job: Job
    responses: list[Any] | None = None
    error: str | None = None
    seconds: float = 0.0
