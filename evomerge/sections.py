"""Sections of a configuration that no other room owns: live model and merge methods, checked as they are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.materialize import COMPILE
from evomerge.model import torch_dtype
from evomerge.placement import MODES
from evomerge.schema import build, naming, one_of, positive
from evomerge.scorers.engine import PATHS


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """How the live model is held, written and run; `dtype` is also what the recipe is exported in."""

    dtype: str = "bfloat16"
    device: str = "auto"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    batch_size: int = 16
    batch_tokens: int = 4096
    scoring: str = "auto"
    max_length: int | None = None
    compile: str = "auto"
    placement: str = "auto"

    def __post_init__(self) -> None:
        torch_dtype(self.dtype)
        one_of("model.compile", self.compile, COMPILE)
        one_of("model.placement", self.placement, ("auto", *MODES))
        one_of("model.scoring", self.scoring, PATHS)
        for key in ("batch_size", "batch_tokens", "max_length"):
            if getattr(self, key) is not None:
                positive(f"model.{key}", getattr(self, key))


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Which merge method, with settings that are not searched and published variants."""

    name: str
    settings: Mapping[str, float | bool] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TextbookConfig(MethodConfig):
    """A merge that is not searched: `genes` are values for all experts and tensors, the others have their defaults."""

    genes: Mapping[str, float] = field(default_factory=dict)


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
