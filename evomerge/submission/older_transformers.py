"""What the starter kit's version of transformers would read wrongly in a folder that transformers 5 has saved.

transformers 5 writes `rope_parameters` in the place of `rope_theta`, leaves out values that are its defaults, and names
a tokenizer class that older versions do not have. The older versions do not say so: they take defaults of their own.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from evomerge.models import Checkpoint, model_config

PLAIN = (str, int, float, bool, type(None))
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "tie_word_embeddings")
# Tokenizers of the kit's version that read `add_eos_token`; the others have no way to add one.
ADD_EOS = ("Llama", "CodeLlama", "Gemma", "Cohere", "GPTNeoX")
NEW_TOKENIZERS = ("TokenizersBackend", "PythonBackend", "SentencePieceBackend")


def older_config(folder: Path) -> dict[str, Any]:
    """The values of a configuration that older versions need, by their old names; empty for an older folder."""
    stored: Mapping[str, Any] = Checkpoint(folder).config
    found = _rope(stored.get("rope_parameters"))
    if str(stored.get("transformers_version", "")).partition(".")[0] != "5":
        return found if "rope_theta" not in stored else {}
    config, general = model_config(folder), PretrainedConfig().to_dict()
    values = {key: value for key, value in config.to_dict().items() if key not in general or key in TOKENS}
    return {key: value for key, value in values.items() if isinstance(value, PLAIN)} | found


def config_after_loading(folder: Path) -> dict[str, Any]:
    """The values that older versions need only after the weights are loaded.

    For T5, transformers 5 keeps whether the decoder's outputs are scaled apart from whether the head is tied; older
    versions scale them at each step exactly where `tie_word_embeddings` says so.
    """
    stored: Mapping[str, Any] = Checkpoint(folder).config
    is_unscaled = stored.get("scale_decoder_outputs") is False and stored.get("tie_word_embeddings") is True
    return {"tie_word_embeddings": False} if is_unscaled else {}


def _rope(parameters: Any) -> dict[str, Any]:
    if not isinstance(parameters, Mapping) or "rope_theta" not in parameters:
        return {}
    found = {"rope_theta": parameters["rope_theta"]}
    scaling = {key: value for key, value in parameters.items() if key != "rope_theta"}
    return found if scaling.get("rope_type", "default") == "default" else {**found, "rope_scaling": scaling}


def needs_plain_tokenizer(tokenizer_config: Mapping[str, Any]) -> bool:
    """Whether the tokenizer's class has to be PreTrainedTokenizerFast, because older versions lack the named one."""
    return tokenizer_config.get("tokenizer_class") in NEW_TOKENIZERS


def adds_eos(tokenizer_config: Mapping[str, Any], model_type: str) -> bool:
    """Whether the kit's tokenizer of the choices adds an end token; by the model's type where no class is named."""
    name = str(tokenizer_config.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
    if name:
        return name in ADD_EOS
    return model_type in ("llama", "mistral", "mixtral", "gemma", "gemma2", "cohere", "gpt_neox")


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """The contents of tokenizer_config.json; empty if there is none."""
    path = folder / "tokenizer_config.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
