"""Sections of a configuration that no other room owns: live model and merge methods, checked as they are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.merging import COMPILE, MODES
from evomerge.models import DTYPES
from evomerge.schema import Count, OneOf, Range, Text, build, naming
from evomerge.scoring.engine import PATHS
from evomerge.space import Coefficient

Dtype = Annotated[str, OneOf(tuple(DTYPES))]
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
    placement: Annotated[str, OneOf(("auto", *MODES))] = "auto"


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Which merge method, with settings that are not searched and published variants."""

    name: str
    settings: Mapping[str, Coefficient | bool] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TextbookConfig(MethodConfig):
    """A merge that is not searched: `genes` are values for all experts and tensors, the others have their defaults."""

    genes: Mapping[str, Coefficient] = field(default_factory=dict)


def read_textbook(given: Any, where: str) -> TextbookConfig:
    """One method with its values; ConfigError for one that is not known, naming the key that it stands at."""
    found = build(TextbookConfig, {"name": given} if isinstance(given, str) else given, where)
    with naming(where):
        methods.load(found.name)
    return found


def read_methods(given: Any) -> list[MethodConfig]:
    """One method, or the methods that a search may choose among; ConfigError for one that is not known."""
    entries = given if isinstance(given, list | tuple) else [given]
    if not entries:
        raise ConfigError("method: the list is empty; name at least one method")
    found = [build(MethodConfig, {"name": e} if isinstance(e, str) else e, "method") for e in entries]
    names = [method.name for method in found]
    for name in names:
        methods.load(name)
        if names.count(name) > 1:
            raise ConfigError(f"method: {name} is listed twice; list each method once")
    return found
