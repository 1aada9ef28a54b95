"""FP8 weights with one scale for each row, as FBGEMM stores them (`weight_scale`)."""

from collections.abc import Mapping

from torch import Tensor

from evomerge.models.quantised._contract import Packed, Settings, Stored

SCALE = "_scale"


def describe(settings: Settings) -> str:
    return "fbgemm_fp8"


def packed(settings: Settings, stored: Stored) -> Mapping[str, Packed]:
    pairs = {name.removesuffix(SCALE): name for name in stored if name.endswith(f".weight{SCALE}")}
    return {weight: _packed(stored, weight, scale) for weight, scale in pairs.items() if weight in stored}


def _packed(stored: Stored, weight: str, scale: str) -> Packed:
    shape = stored.shape(weight)
    bound = f"{weight.removesuffix('weight')}input_scale_ub"

    def unpack() -> Tensor:
        return stored.tensor(weight).float() * stored.tensor(scale).float().reshape(-1, 1)

    return Packed(shape, (weight, scale, *([bound] if bound in stored else [])), unpack)
