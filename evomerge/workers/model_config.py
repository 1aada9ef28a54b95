"""The section of an experiment that says how the live model is held, written and run."""

from dataclasses import dataclass
from typing import Annotated

from evomerge.merging import COMPILE, PLACEMENTS
from evomerge.recipes import DTYPES
from evomerge.schema import Count, OneOf, Range, Text
from evomerge.scoring.engine import PATHS

Dtype = Annotated[str, OneOf(DTYPES)]
Device = Annotated[str, Text(r"auto|cpu|cuda(:\d{1,3})?", "auto, cpu, cuda or cuda:N")]
Tokens = Annotated[int, Range(1, 2**31 - 1)]  # what positions are counted in
Scoring = Annotated[str, OneOf(PATHS)]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """How the live model is held, written and run; `dtype` is also what the recipe is exported in."""

    dtype: Dtype = "bfloat16"
    device: Device = "auto"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    batch_size: Count = 16
    batch_tokens: Tokens = 4096
    scoring: Scoring = "auto"
    max_length: Tokens | None = None
    compile: Annotated[str, OneOf(tuple(COMPILE))] = "auto"
    placement: Annotated[str, OneOf(("auto", *PLACEMENTS))] = "auto"
