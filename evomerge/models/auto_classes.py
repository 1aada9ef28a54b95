"""The configuration of a folder, and the class of transformers that loads the language model of a configuration."""

from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
)
from transformers.utils import logging as transformers_logging

from evomerge.errors import ExpertError


class silence_transformers:
    """Context manager that hides transformers' progress bars and log messages below errors."""

    def __enter__(self) -> None:
        self._level = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *exception: object) -> None:
        transformers_logging.set_verbosity(self._level)
        transformers_logging.enable_progress_bar()


def model_config(folder: Path, trust_remote_code: bool = False) -> PretrainedConfig:
    """The configuration in `folder`; ExpertError if it cannot be read."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # an invalid value raises any exception, in any library
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExpertError(f"{folder}/config.json: {reason}") from error
    return config


def auto_class_of(folder: Path, config: PretrainedConfig) -> Any:
    """The auto class of transformers for the architecture that saved the checkpoint, if it generates text.

    The text-only class of a multimodal architecture may look for names that the files do not have.
    """
    classes: tuple[Any, ...] = (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM)
    if config.is_encoder_decoder:
        classes = (AutoModelForSeq2SeqLM, AutoModelForImageTextToText)
    remote = getattr(config, "auto_map", None) or {}
    supported = [c for c in classes if type(config) in c._model_mapping or c.__name__ in remote]
    if not supported:
        raise ExpertError(
            f"{folder}: architecture {config.model_type}: transformers loads it neither as a language model nor as an"
            " image-text-to-text model; give a model that generates text"
        )
    saved_by = config.architectures or ()
    known = (c for c in supported if type(config) in c._model_mapping)
    return next((c for c in known if c._model_mapping[type(config)].__name__ in saved_by), supported[0])
