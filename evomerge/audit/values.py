"""What the stored numbers of one tensor are: not finite, denormal, huge, zero, or of a dtype that is no float."""

from dataclasses import dataclass

import torch
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SAMPLE = 1 << 16  # elements from which the median and the share of denormal numbers are computed


@dataclass
class Values:
    """Counts over all elements of a tensor, and statistics of a sample of them.

    `nan`, `infinite` and `zeros` are counts of elements, `zero_rows` of rows of zeros in a matrix, `denormal` is a
    share of the sample. `largest` is the largest finite magnitude, `median` the median magnitude of the sample.
    """

    dtype: torch.dtype
    size: int = 0
    nan: int = 0
    infinite: int = 0
    zeros: int = 0
    zero_rows: int = 0
    largest: float = 0.0
    median: float = 0.0
    denormal: float = 0.0

    @property
    def is_finite(self) -> bool:
        """Whether every element is a finite number of a dtype that weights can be computed in."""
        return self.dtype in FLOATS and not (self.nan or self.infinite)

    @property
    def zero_share(self) -> float:
        """The share of elements that are exactly zero."""
        return self.zeros / max(self.size, 1)

    def add(self, part: Tensor) -> None:
        """Count the elements of a part of the tensor."""
        magnitudes = part.float().abs_() if part.dtype != torch.float32 else part.abs()
        self.size += part.numel()
        self.zeros += part.numel() - int(torch.count_nonzero(magnitudes))
        largest = float(magnitudes.amax()) if part.numel() else 0.0
        if not largest < float("inf"):  # NaN too
            self.nan += int(magnitudes.isnan().sum())
            self.infinite += int(magnitudes.isinf().sum())
            largest = float(magnitudes.nan_to_num_(0.0, 0.0, 0.0).amax())
        self.largest = max(self.largest, largest)


def values_of(tensor: Tensor, parts: int = 1 << 20) -> Values:
    """The values of a whole tensor, read in parts of this many elements."""
    flat = tensor.reshape(-1)
    found = Values(tensor.dtype)
    for part in flat.split(parts):
        found.add(part)
    if tensor.dtype not in FLOATS or not flat.numel():
        return found
    if tensor.dim() > 1:
        rows = tensor.reshape(tensor.shape[0], -1)
        found.zero_rows = len(rows) - int(rows.any(dim=1).sum())
    sample = flat[:: -(-flat.numel() // SAMPLE)]
    magnitudes = sample.double().abs()
    found.median = float(magnitudes.nan_to_num(0.0, 0.0, 0.0).median())
    found.denormal = float(((magnitudes > 0) & (magnitudes < torch.finfo(tensor.dtype).tiny)).double().mean())
    return found
