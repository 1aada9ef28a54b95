"""Interprets the tensor names of a peft LoRA adapter: which parameters of the base it changes, and how.

Checked against peft 0.21: for a parameter that is not tied, every supported kind gives the result of
`merge_and_unload`.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.errors import ExpertError
from evomerge.models.adapter_config import ADAPTER_CONFIG_FILE, MERGE_FIRST
from evomerge.models.checkpoint import Shape

_PREFIX = "base_model.model."
# (pattern of the name after the prefix, field of `Change`, last component of the base parameter); the first match wins.
_PARTS = (
    (r"(.+(?:\.base_layer)+)\.lora_A\.weight", "down", "weight"),  # the inner one of several parameters of a module
    (r"(.+(?:\.base_layer)+)\.lora_B\.weight", "up", "weight"),
    (r"(.+)\.lora_(?:embedding_)?A(?:\.weight)?", "down", "weight"),
    (r"(.+)\.lora_(?:embedding_)?B(?:\.weight)?", "up", "weight"),
    (r"(.+)\.lora_B\.bias", "bias", "bias"),
    (r"(.+)\.lora_magnitude_vector(?:\.weight)?", "magnitude", "weight"),
    (r"(.+)\.token_adapter\.trainable_tokens_delta", "tokens", "weight"),
    (r"(.+?)(?:\.token_adapter)?\.base_layer\.weight", "copy", "weight"),
    (r"(.+)\.base_layer\.bias", "stored", "bias"),
)


@dataclass(frozen=True)
class Change:
    """The tensors of an adapter file that change one base parameter, by their names in the file."""

    down: str | None = None
    up: str | None = None
    magnitude: str | None = None  # DoRA
    bias: str | None = None  # a trained bias of lora_B, scaled like the factors
    stored: str | None = None  # the whole new parameter: modules_to_save and trained biases
    copy: str | None = None  # a copy of the base's tensor, which peft saves with an adapted embedding
    tokens: str | None = None  # trained rows that replace the rows `indices` of the base
    indices: tuple[int, ...] = ()
    scale: float = 1.0
    transposed: bool | None = None  # whether up @ down is the transposed parameter; None: the base's shape decides
    experts: int = 0  # of a stacked parameter: its number of matrices, whose factors are slices of `up` and `down`
    unbound: bool = False  # factors of a parameter that only the base's architecture tells


def read_changes(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Change]:
    """Base parameter → its change, from the names and shapes of the tensors in the adapter's file."""
    parts: dict[str, dict[str, str]] = {}
    for key in sorted(shapes):
        if not key.startswith(_PREFIX):
            raise ExpertError(f"{folder}: tensor {key} lacks the prefix {_PREFIX}; save it again with peft")
        if ".original_module." in key:  # with bias="all" peft also saves the original biases of modules_to_save
            continue
        name, part = _parse(folder, key, shapes, bool(config.get("target_parameters")))
        parts.setdefault(name, {})[part] = key
    changes = {name: _change(folder, config, name, keys, shapes) for name, keys in sorted(parts.items())}
    if not changes:
        raise ExpertError(f"{folder}: the adapter holds no tensors; save it again with peft")
    return changes


def _parse(folder: Path, key: str, shapes: Collection[str], nested: bool) -> tuple[str, str]:
    path = key.removeprefix(_PREFIX)
    for pattern, part, leaf in _PARTS:
        match = re.fullmatch(pattern, path)
        if match and (nested or "base_layer" not in match[1]) and "token_adapter" not in match[1]:
            return f"{match[1]}.{leaf}", part
    if re.search(r"\.(lora_|base_layer\.|token_adapter\.)", path):
        raise ExpertError(f"{folder}: tensor {key} is of a kind that is not supported; {MERGE_FIRST}")
    return path.replace(".modules_to_save.", "."), "stored"


def _change(
    folder: Path, config: Mapping[str, Any], name: str, parts: Mapping[str, Any], shapes: Mapping[str, Shape]
) -> Change:
    if "stored" in parts and parts.keys() - {"stored", "bias"}:
        raise ExpertError(f"{folder}: {name} is both saved whole and adapted; {MERGE_FIRST}")
    if "tokens" in parts:
        return _tokens(folder, config, name, parts, shapes)
    if not parts.keys() & {"down", "up", "magnitude", "bias"}:
        # A copy without factors is the expert's whole embedding, which peft saves on request.
        return Change(stored=parts.get("stored") or parts["copy"])
    direct = any(f".{name}".endswith(f".{target}") for target in config.get("target_parameters") or ())
    rank, scale = _rank_and_scale(config, name if direct else name.rpartition(".")[0])
    if "bias" in parts:
        return Change(**parts, scale=scale)
    unbound = not direct and bool(config.get("target_parameters")) and shapes[parts["down"]][:1] != (rank,)
    _check_factors(folder, name, parts, shapes, None if unbound else rank)
    embedding = ".lora_embedding_" in parts["down"]
    transposed = True if embedding else False if direct else None
    return Change(**parts, scale=scale, transposed=transposed, unbound=unbound)


def bound(folder: Path, config: Mapping[str, Any], change: Change, path: str, shape: Shape, factors: Shape) -> Change:
    """The change of the parameter at `path`, which the configuration lists in `target_parameters`.

    A parameter of three dimensions is a stack of matrices. peft stores the factors of all of them side by side, so
    `factors`, the number of rows of lora_A and of columns of lora_B, are their number times the rank.
    """
    experts = shape[0] if len(shape) == 3 else 0
    rank, scale = _rank_and_scale(config, path)
    if set(factors) != {rank * max(experts, 1)}:
        raise ExpertError(
            f"{folder}: the factors of {path} have ranks {factors[0]} and {factors[1]}, {ADAPTER_CONFIG_FILE} says"
            f" {rank}{f' for each of {experts} experts' if experts else ''}; the two files do not belong together"
        )
    return replace(change, scale=scale, transposed=False, experts=experts, unbound=False)


def _rank_and_scale(config: Mapping[str, Any], module: str) -> tuple[int, float]:
    rank = int(_pattern(config.get("rank_pattern"), module, config.get("r", 8)))
    alpha = float(_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)))
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the module's name, as in peft."""
    matches = (value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", module))
    return next(matches, default)


def _check_factors(
    folder: Path, name: str, parts: Mapping[str, Any], shapes: Mapping[str, Shape], rank: int | None
) -> None:
    for part, letter in (("down", "A"), ("up", "B")):
        if part not in parts:
            raise ExpertError(f"{folder}: {name} has no lora_{letter} tensor; download the adapter again")
    down, up = shapes[parts["down"]], shapes[parts["up"]]
    if len(down) != 2 or len(up) != 2:
        raise ExpertError(f"{folder}: the factors of {name} are not matrices (a convolution?); {MERGE_FIRST}")
    if down[0] != (rank or down[0]) or up[1] != down[0]:
        raise ExpertError(
            f"{folder}: the factors of {name} have ranks {down[0]} and {up[1]}, {ADAPTER_CONFIG_FILE} says {rank};"
            " the two files do not belong together"
        )
    if "magnitude" in parts and math.prod(shapes[parts["magnitude"]]) != up[0]:
        raise ExpertError(f"{folder}: {name} needs {up[0]} DoRA magnitudes; download the adapter again")


def _tokens(
    folder: Path, config: Mapping[str, Any], name: str, parts: Mapping[str, Any], shapes: Mapping[str, Shape]
) -> Change:
    if parts.keys() - {"tokens", "copy"}:
        raise ExpertError(f"{folder}: {name} has both LoRA factors and trained tokens; {MERGE_FIRST}")
    tokens = config.get("trainable_token_indices") or []
    if isinstance(tokens, dict):
        module = name.rpartition(".")[0]
        tokens = next((rows for key, rows in tokens.items() if f".{module}".endswith(f".{key}")), [])
    if len(tokens) != shapes[parts["tokens"]][0]:
        raise ExpertError(
            f"{folder}: trainable_token_indices lists {len(tokens)} tokens of {name}, the file holds"
            f" {shapes[parts['tokens']][0]}; the two files do not belong together"
        )
    return Change(**parts, indices=tuple(tokens))
