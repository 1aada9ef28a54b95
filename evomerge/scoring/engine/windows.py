"""How far a model sees in the way that token trees assume: plain causal attention, positions of fixed meaning."""

import math
from typing import Any

from transformers import PretrainedConfig


def reach(config: PretrainedConfig) -> float:
    """Tokens up to which every layer sees everything before it and positions mean the same in every batch.

    Sliding and chunked attention cut off what is further away. Longer inputs take the plain path.
    """
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    limits = [position_reach(config)]
    if "sliding_attention" in kinds or (not kinds and getattr(text, "use_sliding_window", True)):
        limits.append(_number(getattr(text, "sliding_window", None)))
    if "chunked_attention" in kinds or not kinds:
        limits.append(_number(getattr(text, "attention_chunk_size", None)))
    return min(limits)


def position_reach(config: PretrainedConfig) -> float:
    """Tokens up to which positions mean the same in every batch.

    Dynamic rotary scalings look at the longest sequence of a batch.
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
