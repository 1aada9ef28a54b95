"""Whether two names mean the same model: the one that an adapter or a model card names, and that of the base."""

import re
from pathlib import Path

# Parts of a name that say how a copy is stored, or who uploaded it, and not which model it is.
_STORAGE = {"fp32", "fp16", "bf16", "float32", "float16", "bfloat16", "hf", "bnb", "4bit", "8bit", "unsloth", "meta"}
_STORAGE |= {"gguf", "gptq", "awq", "fp8", "nf4", "int4", "int8"}
_GGUF = re.compile(r"([.-](i?q\d+(_\w+)*|b?f16|f32))?\.gguf$")  # the end of a file's name, with its type
_GENERIC = {"base", "model", "models", "checkpoint", "ckpt", "pretrained", "foundation", "main", "final", "weights"}
_ROLES = {"instruct", "chat", "it", "sft", "dpo"}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([mb])$")
_TOLERANCE = 1.5  # a name gives a rounded count, with or without embeddings


def is_same_model(named: str, base: str, parameters: int) -> bool:
    """Whether the model called `named` can be the base, a folder or hub id with this number of parameters.

    How a copy is stored (fp32, bnb-4bit) does not count, and neither does a name that says nothing (`./model`). A base
    in a folder with such a name, or with one that gives no size, must have the size that `named` gives.
    """
    one, other = _parts(named), _parts(base)
    if "".join(one) == "".join(other) or set(one) == set(other) or _is_generic(one):
        return True
    size = next((found for part in one if (found := _size(part))), None)
    if size is None or not 1 / _TOLERANCE < parameters / size < _TOLERANCE:
        return False
    is_free_name = Path(base).is_dir() and not any(_size(part) for part in other)
    return _is_generic(other) or (is_free_name and not _ROLES.intersection(other) - set(one))


def _is_generic(parts: list[str]) -> bool:
    return all(part in _GENERIC | _STORAGE or re.fullmatch(r"\d+|[0-9a-f]{12,}", part) for part in parts)


def _parts(name: str) -> list[str]:
    parts = [part for part in re.split(r"[^a-z0-9.]+", _GGUF.sub("", Path(name).name.lower())) if part]
    return [part for part in parts if part not in _STORAGE] or parts


def _size(part: str) -> float | None:
    found = _SIZE.match(part)
    return float(found[1]) * {"m": 1e6, "b": 1e9}[found[2]] if found else None
