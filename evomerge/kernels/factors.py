"""Low-rank factors: the two matrices of a LoRA update."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """A low-rank update in the orientation of the base tensor: the expert is base + scale * up @ down."""

    up: Tensor  # [rows, rank] in the file's dtype; a view of memory-mapped pages, so read-only
    down: Tensor  # [rank, columns]
    scale: float

    def delta(self) -> Tensor:
        """The dense update in fp32, [rows, columns]."""
        return (self.up.float() @ self.down.float()) * self.scale
