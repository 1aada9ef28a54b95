"""GPTQ (Frantar et al. 2023): integers of 2 to 8 bits by group of inputs, in both versions of its files."""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.models.quantised._contract import Packed, Settings, Stored, require
from evomerge.models.quantised._integers import WORD, unpack_words

LAYOUTS = {"gptq": 1, "gptq_v2": 0}  # what is added to a stored zero point
BITS = (2, 3, 4, 8)


def describe(settings: Settings) -> str:
    return f"gptq {settings.get('bits', 4)} bits"


def packed(settings: Settings, stored: Stored) -> Mapping[str, Packed]:
    layout = str(settings.get("checkpoint_format") or "gptq")
    if layout not in LAYOUTS:
        raise ExpertError(f"gptq in the layout {layout}, which cannot be dequantised here; give it as gptq or gptq_v2")
    stems = [name.removesuffix("qweight") for name in stored if name.endswith(".qweight")]
    return {f"{stem}weight": _packed(stored, stem, settings, LAYOUTS[layout]) for stem in stems}


def _packed(stored: Stored, stem: str, settings: Settings, offset: int) -> Packed:
    require(stored, f"{stem}qweight", f"{stem}qzeros", f"{stem}scales")
    words, outputs = stored.shape(f"{stem}qweight")
    groups = stored.shape(f"{stem}scales")[0]
    order = f"{stem}g_idx" if f"{stem}g_idx" in stored else None
    inputs = stored.shape(order)[0] if order else words * WORD // int(settings.get("bits", 4))
    bits = words * WORD // inputs
    if bits not in BITS or words * WORD != bits * inputs:
        raise ExpertError(f"{stem}qweight: {words} words for {inputs} inputs are no integers of 2, 3, 4 or 8 bits")

    def unpack() -> Tensor:
        codes = unpack_words(stored.tensor(f"{stem}qweight"), bits, inputs)
        zeros = unpack_words(stored.tensor(f"{stem}qzeros").T, bits, outputs).T
        zeros = (zeros + offset) & ((1 << bits) - 1)
        group = stored.tensor(order).long() if order else torch.arange(inputs) * groups // inputs
        scales = stored.tensor(f"{stem}scales")
        values = (codes - zeros[group]).float() * scales.float()[group]
        return values.to(scales.dtype).T.contiguous()

    names = [f"{stem}{part}" for part in ("qweight", "qzeros", "scales", "g_idx") if f"{stem}{part}" in stored]
    return Packed((outputs, inputs), tuple(names), unpack)
