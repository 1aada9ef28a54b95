"""Reads and validates the configuration file of a peft LoRA adapter.

Kinds of LoRA that cannot be reproduced exactly are refused by name, because a wrong update would look like a weak
expert.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evomerge.errors import ExpertError
from evomerge.parsing import parse_json
from evomerge.schema import FilePath

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
MERGE_FIRST = "merge it into its base with peft's merge_and_unload and give the merged folder"

# Initialisations that do not change the base weights. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA subtract from the base,
# so their factors are an update of a modified base that is not stored.
_PLAIN_INITS = ("none", "true", "false", "gaussian", "eva", "orthogonal", "mica")
_EXTENSIONS = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_ga_config",
    "megatron_config",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration; ExpertError if it is invalid or of a kind that cannot be reproduced exactly."""
    path = folder / ADAPTER_CONFIG_FILE
    try:
        config = parse_json(path.read_text(encoding="utf-8"), repeated_keys=True)
    except FileNotFoundError:
        raise ExpertError(f"{folder}: no {ADAPTER_CONFIG_FILE}; give the folder peft's save_pretrained wrote") from None
    except (OSError, ValueError) as error:
        raise ExpertError(f"{path}: not readable as JSON ({error}); download the adapter again") from None
    if not isinstance(config, dict):
        raise ExpertError(f"{path}: not a JSON object; download the adapter again")
    for key, (is_valid, description) in _SETTINGS.items():
        if key in config and not is_valid(config[key]):
            value = repr(config[key])[:60]
            raise ExpertError(f"{path}: {key} is {value}, not {description}; download the adapter again")
    _refuse_kind(folder, config)
    return config


def selects(config: Mapping[str, Any], module: str) -> bool:
    """Whether peft, when it loads an adapter with this configuration, adapts the module of this name."""
    from peft.tuners.tuners_utils import check_target_module_exists  # slow import, and full experts do not need it

    if config.get("target_modules") in (None, "all-linear"):  # peft's selection then depends on the model
        return True
    return bool(check_target_module_exists(SimpleNamespace(**{"target_parameters": None, **config}), module))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31


def _is_pattern(value: object, is_valid: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(_is_regex(key) and is_valid(entry) for key, entry in value.items())


def _is_regex(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _is_tokens(value: object) -> bool:
    rows = value.values() if isinstance(value, dict) else [value]
    return all(isinstance(row, list) and all(type(token) is int and token >= 0 for token in row) for row in rows)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_path(value: object) -> bool:
    return isinstance(value, str) and FilePath().allows(value)


def _is_truth(value: object) -> bool:
    return value is None or isinstance(value, bool)


def _is_choice(value: object) -> bool:
    return _is_regex(value) if isinstance(value, str) else _is_names(value)


def _is_layers(value: object) -> bool:
    return all(type(layer) is int for layer in (value if isinstance(value, list) else [value]))


# Setting → a check of its value, and a description of valid values for the message.
_SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_is_count, "a rank of 1 or more"),
    "lora_alpha": (_is_number, "a number"),
    "use_rslora": (_is_truth, "true or false"),
    "use_dora": (_is_truth, "true or false"),
    "lora_bias": (_is_truth, "true or false"),
    "rank_pattern": (lambda value: value is None or _is_pattern(value, _is_count), "a map from names to ranks"),
    "alpha_pattern": (lambda value: value is None or _is_pattern(value, _is_number), "a map from names to numbers"),
    "target_modules": (lambda value: value is None or _is_choice(value), "a list of names, or a pattern"),
    "exclude_modules": (lambda value: value is None or _is_choice(value), "a list of names, or a pattern"),
    "modules_to_save": (lambda value: value is None or _is_names(value), "a list of names"),
    "layers_to_transform": (lambda value: value is None or _is_layers(value), "a layer's number, or a list of them"),
    "layers_pattern": (lambda value: value is None or _is_choice(value), "a name, or a list of names"),
    "target_parameters": (lambda value: value is None or _is_names(value), "a list of names"),
    "trainable_token_indices": (lambda value: value is None or _is_tokens(value), "a list of tokens, or one by module"),
    "base_model_name_or_path": (lambda value: not value or _is_path(value), "a name"),
}


def _refuse_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ExpertError(f"{folder}: peft_type {kind} is not supported, only LORA is; {MERGE_FIRST}")
    init = config.get("init_lora_weights")
    if str(init).lower() not in _PLAIN_INITS:
        raise ExpertError(f"{folder}: init_lora_weights={init} changes the base weights; {MERGE_FIRST}")
    for key in _EXTENSIONS:
        if config.get(key):
            raise ExpertError(f"{folder}: the LoRA extension {key} is not supported; {MERGE_FIRST}")
