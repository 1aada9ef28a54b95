"""Builds models with transformers: on the meta device to read names and shapes, or loaded to write candidates into."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import ConfigError, EvomergeError, ExpertError
from evomerge.models.auto_classes import auto_class_of, model_config, silence_transformers
from evomerge.models.dequantised import complete
from evomerge.recipes import DTYPES

TORCH_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of this name; ConfigError lists the supported ones."""
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return TORCH_DTYPES[name]


def check_device(name: str, is_local: bool) -> None:
    """ConfigError for a device that torch does not know or, if `is_local`, that this machine does not have."""
    if name == "auto":
        return
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"model.device={name}: give auto, cpu, cuda or cuda:N") from None
    if is_local and device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"model.device={name}: this machine has {torch.cuda.device_count()} CUDA devices; use auto")


def resolve_device(name: str) -> str:
    """The device name, with `auto` replaced by cuda if this machine has it, else cpu."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def empty_model(
    folder: Path,
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
    config: PretrainedConfig | None = None,
) -> PreTrainedModel:
    """The architecture in `folder` on the meta device, without weights; ExpertError if it cannot be built.

    `config` replaces the folder's configuration.
    """
    options = {"attn_implementation": attn_implementation} if attn_implementation else {}
    config = config or model_config(folder, trust_remote_code)
    auto_class = auto_class_of(folder, config)
    with as_expert_error(folder, "its architecture cannot be built"), torch.device("meta"), silence_transformers():
        model: PreTrainedModel = auto_class.from_config(config, trust_remote_code=trust_remote_code, **options)
    return model


@contextmanager
def as_expert_error(folder: Path, problem: str) -> Iterator[None]:
    """Replace any exception of a library or of custom code in the block by an ExpertError of one line."""
    try:
        yield
    except EvomergeError:
        raise
    except Exception as error:  # architectures raise any exception for an invalid configuration
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ExpertError(
            f"{folder}: {problem} ({reason}); look at its config.json and the installed packages"
        ) from error


def check_attention(name: str, folder: Path, trust_remote_code: bool = False) -> None:
    """ConfigError for an attention implementation that the architecture or this machine does not support."""
    try:
        empty_model(folder, trust_remote_code, attn_implementation=name)
    except ExpertError as error:
        reason = " ".join(str(error.__cause__).split())
        line = f"model.attn_implementation={name}: {reason}; null leaves the choice to transformers"
        raise ConfigError(line) from None


def full_config(folder: Path, trust_remote_code: bool = False) -> dict[str, Any]:
    """config.json with the architecture's defaults; the language model's section is merged into the top level."""
    config = model_config(folder, trust_remote_code)
    with as_expert_error(folder, "its configuration cannot be read"):
        return {**config.get_text_config().to_dict(), **config.to_dict()}


def load_model(
    folder: Path,
    *,
    dtype: str,
    device: str = "cpu",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    untied: Collection[str] = (),
    resize: Callable[[PreTrainedModel], None] | None = None,
) -> PreTrainedModel:
    """The loaded model in eval mode; `untied` are paths of tied parameters that become separate parameters.

    `resize` gives the model the rows of another vocabulary. The model is built with `dtype`, because casting it later
    would also cast its rotary buffers. A quantised checkpoint is dequantised first.
    """
    complete(folder)
    auto_class = auto_class_of(folder, model_config(folder, trust_remote_code))
    with as_expert_error(folder, "transformers cannot load it"), silence_transformers():
        model = auto_class.from_pretrained(
            folder,
            dtype=torch_dtype(dtype),
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
    if resize:
        resize(model)
    _untie(model, untied)
    for config in (model.config, model.config.get_text_config()):
        if getattr(config, "output_router_logits", False):
            config.output_router_logits = False  # for a loss of training, at a cost in every forward pass
    other_dtype = [name for name, parameter in model.named_parameters() if parameter.dtype != torch_dtype(dtype)]
    if other_dtype:
        remedy = "float32" if dtype == "bfloat16" else "bfloat16 or float32"
        raise ConfigError(f"model.dtype={dtype}: this architecture keeps {other_dtype[0]} in another; use {remedy}")
    model.requires_grad_(False)
    return model.to(device).eval()  # type: ignore[no-any-return]


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; ExpertError if it has none."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers raise any exception for invalid files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExpertError(f"{folder}: no tokenizer ({reason}); the base needs its tokenizer files") from error
    return tokenizer


def _untie(model: PreTrainedModel, untied: Collection[str]) -> None:
    """Make separate parameters of these paths, and prevent any later tying.

    lm-eval calls `tie_weights`, which follows the configuration's flag and would replace a head that the files contain.
    """
    for path in untied:
        module, _, name = path.rpartition(".")
        copy = model.get_parameter(path).detach().clone()
        setattr(model.get_submodule(module), name, nn.Parameter(copy, requires_grad=False))
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            part._tied_weights_keys = {}
