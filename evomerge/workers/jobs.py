"""What travels between the loop and its workers: plain values, cheap to send to another machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.recipes import ModelRef, Recipe

if TYPE_CHECKING:
    from evomerge.scoring.engine import Work


@dataclass(frozen=True)
class WorkerSpec:
    """Everything a worker is made from, small enough to send to another machine."""

    base: ModelRef
    experts: tuple[ModelRef, ...]
    work: Mapping[str, "Work"]  # by chunk id
    dtype: str = "float32"
    device: str = "auto"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    batch_size: int = 16
    batch_tokens: int = 4096
    scoring: str = "auto"
    max_length: int | None = None
    compile: str = "auto"
    placement: str = "auto"
    prepared: str | None = None


@dataclass(frozen=True)
class Job:
    """One chunk of one candidate."""

    key: str
    recipe: Recipe
    chunk: str


@dataclass(frozen=True)
class Outcome:
    """What became of a job: raw responses, or the reason why the candidate cannot have any."""

    job: Job
    responses: list[Any] | None = None
    error: str | None = None
    seconds: float = 0.0
