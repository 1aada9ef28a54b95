"""AWQ (Lin et al. 2024): 4-bit integers by group of inputs, in the layout of AutoAWQ's `gemm` kernel."""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.models.quantised._contract import Packed, Settings, Stored, require
from evomerge.models.quantised._integers import WORD, unpack_words

BITS = 4
PER_WORD = WORD // BITS
ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # the place in a word of each of eight outputs


def describe(settings: Settings) -> str:
    return f"awq {_bits(settings)} bits"


def packed(settings: Settings, stored: Stored) -> Mapping[str, Packed]:
    version = str(settings.get("version") or settings.get("format") or "gemm").lower()
    if version != "gemm" or _bits(settings) != BITS:
        raise ExpertError(
            f"awq {version} of {_bits(settings)} bits cannot be dequantised here; give it as gemm of 4 bits"
        )
    stems = [name.removesuffix("qweight") for name in stored if name.endswith(".qweight")]
    return {f"{stem}weight": _packed(stored, stem) for stem in stems}


def _bits(settings: Settings) -> int:
    return int(settings.get("bits") or settings.get("w_bit") or BITS)


def _packed(stored: Stored, stem: str) -> Packed:
    require(stored, f"{stem}qweight", f"{stem}qzeros", f"{stem}scales")
    inputs, words = stored.shape(f"{stem}qweight")
    groups = stored.shape(f"{stem}scales")[0]
    if inputs % groups:
        raise ExpertError(f"{stem}qweight: {inputs} inputs cannot be divided into the {groups} groups of its scales")

    def unpack() -> Tensor:
        codes, zeros = (_integers(stored.tensor(f"{stem}{part}")) for part in ("qweight", "qzeros"))
        scales = stored.tensor(f"{stem}scales")
        size = inputs // groups
        values = (codes - zeros.repeat_interleave(size, 0)).float() * scales.float().repeat_interleave(size, 0)
        return values.to(scales.dtype).T.contiguous()

    names = tuple(f"{stem}{part}" for part in ("qweight", "qzeros", "scales"))
    return Packed((words * PER_WORD, inputs), names, unpack)


def _integers(words: Tensor) -> Tensor:
    """The integers in each row of words, by output."""
    found = unpack_words(words.T, BITS, words.shape[1] * PER_WORD).T
    return found.reshape(len(words), -1, PER_WORD)[..., torch.tensor(ORDER)].reshape(len(words), -1)
