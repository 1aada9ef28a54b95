"""The live model: its parameters by name without weights, and the real thing to write candidates into."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from evomerge.errors import ConfigError, ExpertError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class Skeleton:
    """What an architecture wants filled: parameter shapes, aliases of tied parameters, persistent buffers."""

    parameters: Mapping[str, tuple[int, ...]]
    tied: Mapping[str, str]
    buffers: frozenset[str]
    prefix: str


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of this name; ConfigError lists the three that weights may have."""
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def check_device(name: str, here: bool) -> None:
    """ConfigError for a device that torch does not know or, where it is to be used `here`, this machine lacks."""
    if name == "auto":
        return
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"model.device={name}: give auto, cpu, cuda or cuda:N") from None
    if here and device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"model.device={name}: this machine has {torch.cuda.device_count()} CUDA devices; use auto")


def resolve_device(name: str) -> str:
    """The device that `auto` means on this machine."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def skeleton(folder: Path, trust_remote_code: bool = False) -> Skeleton:
    """The parameters of the architecture in `folder`, built on the meta device: no weight is read."""
    refuse_unmergeable(folder, full_config(folder, trust_remote_code))
    model = empty_model(folder, trust_remote_code)
    tied = dict(model.all_tied_weights_keys)
    parameters = {name: tuple(p.shape) for name, p in model.named_parameters()}
    persistent = frozenset(model.state_dict()) - set(parameters) - set(tied)
    return Skeleton(parameters, tied, persistent, str(model.base_model_prefix))


def empty_model(folder: Path, trust_remote_code: bool = False, **options: str) -> PreTrainedModel:
    """The architecture in `folder` on the meta device: modules and shapes, no weights."""
    config = model_config(folder, trust_remote_code)
    with torch.device("meta"), quiet():
        model: PreTrainedModel = _auto_class(config).from_config(config, trust_remote_code=trust_remote_code, **options)
    return model


def check_attention(name: str, folder: Path, trust_remote_code: bool = False) -> None:
    """ConfigError for attention that the architecture in `folder` does not have, or this machine lacks a package of."""
    try:
        empty_model(folder, trust_remote_code, attn_implementation=name)
    except Exception as error:  # an unknown word, a missing package, a kernel that no hub has: each raises its own
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"model.attn_implementation={name}: {reason}; null leaves the choice to transformers"
        ) from None


def full_config(folder: Path, trust_remote_code: bool = False) -> dict[str, Any]:
    """config.json with the defaults of its architecture."""
    return dict(model_config(folder, trust_remote_code).to_dict())


def refuse_unmergeable(folder: Path, config: Mapping[str, Any]) -> None:
    """ExpertError for a mixture of experts or a quantised checkpoint, whose files do not hold the parameters."""
    count = max((config.get(key) or 0 for key in EXPERT_COUNTS if isinstance(config.get(key), int)), default=0)
    if count > 1:
        raise ExpertError(f"{folder}: a mixture-of-experts model ({count} experts), which cannot be merged yet")
    if config.get("quantization_config"):
        raise ExpertError(f"{folder}: a quantised checkpoint; save it dequantised first")


def load_model(
    folder: Path,
    *,
    dtype: str,
    device: str = "cpu",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The model in eval mode, built with `dtype` (casting later would also cast its rotary buffers)."""
    config = model_config(folder, trust_remote_code)
    with quiet():
        model = _auto_class(config).from_pretrained(
            folder,
            dtype=torch_dtype(dtype),
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
    kept = [name for name, parameter in model.named_parameters() if parameter.dtype != torch_dtype(dtype)]
    if kept:
        raise ConfigError(f"model.dtype={dtype}: this architecture keeps {kept[0]} in another; use bfloat16 or float32")
    model.requires_grad_(False)
    return model.to(device).eval()  # type: ignore[no-any-return]


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; ExpertError where it has none."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExpertError(f"{folder}: no tokenizer ({reason}); the base needs its tokenizer files") from error
    return tokenizer


class quiet:
    """Silences transformers' progress bars and notices, which repeat what the run already says."""

    def __enter__(self) -> None:
        self._level = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *exception: object) -> None:
        transformers_logging.set_verbosity(self._level)
        transformers_logging.enable_progress_bar()


def model_config(folder: Path, trust_remote_code: bool = False) -> PretrainedConfig:
    """The configuration in `folder`; ExpertError where it cannot be read."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExpertError(f"{folder}/config.json: {reason}") from error
    return config


def _auto_class(config: Any) -> Any:
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
