"""One tensor of the base and of each expert, read once and never written."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from evomerge.errors import CandidateError
from evomerge.lora import Factors

# What an expert brings to one tensor: its dense weight, a low-rank update of the base, or nothing new.
Update = Tensor | Factors | None


class Sources:
    """The base's tensor and one update per expert; `name` is the parameter's, the same in every file layout.

    What is held stays where it is stored, in the page cache; each access brings it to `device`, so that a state which
    keeps its sources for a whole run costs the device nothing. `model_threshold(expert, density)` answers for methods
    that trim over the whole model instead of one tensor.
    """

    def __init__(
        self,
        name: str,
        base: Tensor,
        updates: Sequence[Update],
        model_threshold: Callable[[int, float], float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.name = name
        self._base, self._updates = base, tuple(updates)
        self._device = device
        self._model_threshold = model_threshold

    def model_threshold(self, expert: int, density: float) -> float:
        """The magnitude that `density` of all the expert's task-vector elements reach, over every tensor."""
        if self._model_threshold is None:
            raise CandidateError(
                f"{self.name}: a threshold over the whole model needs the whole model; use trim: tensor"
            )
        return self._model_threshold(expert, density)

    def __len__(self) -> int:
        return len(self._updates)

    @property
    def base(self) -> Tensor:
        """The base's tensor, on the device."""
        return self._base.to(self._device)

    def update(self, index: int) -> Update:
        """What one expert brings, on the device."""
        update = self._updates[index]
        if isinstance(update, Factors):
            return Factors(update.up.to(self._device), update.down.to(self._device), update.scale)
        return None if update is None else update.to(self._device)

    def expert(self, index: int) -> Tensor:
        """The expert's weight in fp32; may alias a stored fp32 tensor, so it is read-only."""
        update = self.update(index)
        if isinstance(update, Factors):
            return update.delta().add_(self.base)
        return (self.base if update is None else update).float()

    def delta(self, index: int) -> Tensor:
        """The task vector expert − base in fp32, a tensor of its own."""
        update = self.update(index)
        if isinstance(update, Factors):
            return update.delta()
        if update is None:
            return torch.zeros_like(self.base, dtype=torch.float32)
        return update.to(torch.float32, copy=True).sub_(self.base)
