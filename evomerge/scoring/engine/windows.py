"""The input lengths up to which a model has full causal attention and positions that are the same in every batch."""

import math
from typing import Any

from transformers import PretrainedConfig


def full_attention_length(config: PretrainedConfig) -> float:
    """The number of tokens up to which every layer attends to all earlier tokens and positions are fixed.

    Token trees need both. Sliding-window and chunked attention limit it; longer inputs take the plain path.
    """
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    limits = [fixed_position_length(config)]
    if "sliding_attention" in kinds or (not kinds and getattr(text, "use_sliding_window", True)):
        limits.append(_number(getattr(text, "sliding_window", None)))
    if "chunked_attention" in kinds or not kinds:
        limits.append(_number(getattr(text, "attention_chunk_size", None)))
    return min(limits)


def fixed_position_length(config: PretrainedConfig) -> float:
    """The number of tokens up to which position embeddings do not depend on the other rows of a batch.

    Dynamic rotary scaling depends on the longest sequence of a batch.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    limits = [math.inf]
    for entry in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if entry.get("rope_type", entry.get("type")) in ("dynamic", "longrope"):
            own = entry.get("original_max_position_embeddings")
            limits.append(_number(own or getattr(text, "original_max_position_embeddings", None) or 0))
    return min(limits)


def _number(value: Any) -> float:
    return math.inf if value is None else float(value)
