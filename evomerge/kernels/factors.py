"""A low-rank update kept as its two factors, as a LoRA adapter holds it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """A low-rank update in the base tensor's own orientation: the expert is base + scale * up @ down."""

    up: Tensor  # [rows, rank], dtype of the file; a view of the file's pages, so never written to
    down: Tensor  # [rank, columns]
    scale: float

    def delta(self) -> Tensor:
        """The dense update in fp32, [rows, columns]."""
        return (self.up.float() @ self.down.float()) * self.scale
