"""The storage types of quantised weights, whose values may each hold several parameters."""

PACKED_TYPES = ("U8", "U16", "U32", "I16", "I32", "F4")  # of safetensors; I64 is that of positions and token ids


def is_packed(dtype: str) -> bool:
    """Whether values of this safetensors dtype may each hold several parameters."""
    return dtype in PACKED_TYPES
