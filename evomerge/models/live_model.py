"""The live model: its parameters by name without weights, and the real thing to write candidates into."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from evomerge.errors import ConfigError, EvomergeError, ExpertError
from evomerge.recipes import DTYPES

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of this name; ConfigError lists the three that weights may have."""
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return TORCH_DTYPES[name]


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


def empty_model(
    folder: Path, trust_remote_code: bool = False, attn_implementation: str | None = None
) -> PreTrainedModel:
    """The architecture in `folder` on the meta device: modules and shapes, no weights; ExpertError where it fails."""
    options = {"attn_implementation": attn_implementation} if attn_implementation else {}
    config = model_config(folder, trust_remote_code)
    auto_class = _auto_class(folder, config)
    with in_one_line(folder, "its architecture cannot be built"), torch.device("meta"), silence_transformers():
        model: PreTrainedModel = auto_class.from_config(config, trust_remote_code=trust_remote_code, **options)
    return model


@contextmanager
def in_one_line(folder: Path, what: str) -> Iterator[None]:
    """ExpertError in place of whatever a library or custom code raises in the block."""
    try:
        yield
    except EvomergeError:
        raise
    except Exception as error:  # architectures fail in any way on a configuration that does not fit them
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ExpertError(f"{folder}: {what} ({reason}); look at its config.json and the installed packages") from error


def check_attention(name: str, folder: Path, trust_remote_code: bool = False) -> None:
    """ConfigError for attention that the architecture in `folder` does not have, or this machine lacks a package of."""
    try:
        empty_model(folder, trust_remote_code, attn_implementation=name)
    except ExpertError as error:
        reason = " ".join(str(error.__cause__).split())
        line = f"model.attn_implementation={name}: {reason}; null leaves the choice to transformers"
        raise ConfigError(line) from None


def full_config(folder: Path, trust_remote_code: bool = False) -> dict[str, Any]:
    """config.json with the defaults of its architecture; a language model's own section counts as the top level."""
    config = model_config(folder, trust_remote_code)
    with in_one_line(folder, "its configuration cannot be read"):
        return {**config.get_text_config().to_dict(), **config.to_dict()}


def refuse_unmergeable(folder: Path, trust_remote_code: bool = False) -> None:
    """ExpertError for a mixture of experts or a quantised checkpoint, whose files do not hold the parameters."""
    config = full_config(folder, trust_remote_code)
    # DBRX keeps the count in a section of its feed-forward layers.
    for section in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in EXPERT_COUNTS:
            if isinstance(count := section.get(key), int) and count > 1:
                raise ExpertError(
                    f"{folder}: its configuration says {key}={count}: layers that choose among experts (or among rows"
                    " found by keys) cannot be merged yet"
                )
    if config.get("quantization_config"):
        raise ExpertError(f"{folder}: a quantised checkpoint; save it dequantised first")


def load_model(
    folder: Path,
    *,
    dtype: str,
    device: str = "cpu",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    separate: Collection[str] = (),
) -> PreTrainedModel:
    """The model in eval mode, built with `dtype` (casting later would also cast its rotary buffers).

    `separate` are paths of tied parameters that become parameters of their own.
    """
    auto_class = _auto_class(folder, model_config(folder, trust_remote_code))
    with in_one_line(folder, "transformers cannot load it"), silence_transformers():
        model = auto_class.from_pretrained(
            folder,
            dtype=torch_dtype(dtype),
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
    _settle_ties(model, separate)
    kept = [name for name, parameter in model.named_parameters() if parameter.dtype != torch_dtype(dtype)]
    if kept:
        raise ConfigError(f"model.dtype={dtype}: this architecture keeps {kept[0]} in another; use bfloat16 or float32")
    model.requires_grad_(False)
    return model.to(device).eval()  # type: ignore[no-any-return]


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; ExpertError where it has none."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers raise whatever their files make them raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExpertError(f"{folder}: no tokenizer ({reason}); the base needs its tokenizer files") from error
    return tokenizer


def _settle_ties(model: PreTrainedModel, separate: Collection[str]) -> None:
    """Make parameters of their own of these paths, and let nothing tie any again.

    lm-eval calls `tie_weights`, which goes by the configuration's flag and would drop a head that the files hold.
    """
    for path in separate:
        module, _, name = path.rpartition(".")
        own = model.get_parameter(path).detach().clone()
        setattr(model.get_submodule(module), name, nn.Parameter(own, requires_grad=False))
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            part._tied_weights_keys = {}


class silence_transformers:
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
    except Exception as error:  # a value of a wrong type or size fails in any way, in any library
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExpertError(f"{folder}/config.json: {reason}") from error
    return config


def _auto_class(folder: Path, config: PretrainedConfig) -> Any:
    """Of the classes by which transformers loads models that write text, the one whose model wrote the checkpoint.

    A language model taken out of one with other senses may look for names that its files do not have.
    """
    classes: tuple[Any, ...] = (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM)
    if config.is_encoder_decoder:
        classes = (AutoModelForSeq2SeqLM, AutoModelForImageTextToText)
    remote = getattr(config, "auto_map", None) or {}
    able = [c for c in classes if type(config) in c._model_mapping or c.__name__ in remote]
    if not able:
        raise ExpertError(
            f"{folder}: architecture {config.model_type}: transformers loads it neither as a language model nor as an"
            " image-text-to-text model; give a model that generates text"
        )
    wrote = config.architectures or ()
    known = (c for c in able if type(config) in c._model_mapping)
    return next((c for c in known if c._model_mapping[type(config)].__name__ in wrote), able[0])
