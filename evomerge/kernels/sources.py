"""One tensor of the base and of each expert, read-only, together with the tensors that the method prepared for it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from evomerge.kernels.factors import Factors
from evomerge.kernels.lowrank import dense

# An expert's version of one tensor: its dense weight, a low-rank update of the base, or None where it equals the base.
Update = Tensor | Factors | None
# An update, or a function that computes a dense weight whose storage would cost an fp32 copy of a whole model.
LazyUpdate = Update | Callable[[], Tensor]
Kind = Literal["weight", "update", "none"]
Key = None | int | str  # the base, the index of an expert, or the name of a prepared tensor


class Sources:
    """The base's tensor and one update per expert; `name` is the parameter's name, the same in every file layout.

    Tensors stay where they are stored. Each access copies one tensor to `device`, so a pass over memory-mapped files
    needs device memory for one tensor at a time. `prepared` contains the tensors that the method prepared for this one:
    small tables on the host, and banks, which are as large as a weight and whose names begin with `bank.`.
    """

    def __init__(
        self,
        name: str,
        base: Tensor | Callable[[], Tensor],
        updates: Sequence[LazyUpdate],
        device: torch.device | str = "cpu",
    ) -> None:
        self.name = name
        self.prepared: Mapping[str, Tensor] = {}
        self.is_prepared = False
        self.device = torch.device(device)
        self.kinds = tuple(map(_kind, updates))
        self._base, self._updates = base, tuple(updates)
        self._flat: dict[Key, Tensor] = {}

    def set_prepared(self, prepared: Mapping[str, Tensor]) -> None:
        """Set the tensors that the method prepared for this one."""
        self.prepared, self.is_prepared = prepared, True

    def release_banks(self) -> None:
        """Drop the prepared tensors if banks are among them, because a bank is as large as the weight."""
        if any(name.startswith("bank.") for name in self.prepared):
            self.prepared, self.is_prepared = {}, False
            self._flat = {key: flat for key, flat in self._flat.items() if not isinstance(key, str)}

    def __len__(self) -> int:
        return len(self._updates)

    @cached_property
    def shape(self) -> torch.Size:
        """The tensor's shape, the same in every model."""
        return self.base.shape

    @property
    def base(self) -> Tensor:
        """The base's tensor on the device."""
        return (self._base() if callable(self._base) else self._base).to(self.device)

    def bank(self, name: str) -> Tensor:
        """The prepared tensor `bank.NAME` on the device."""
        return self.prepared[f"bank.{name}"].to(self.device)

    def dense(self, key: Key) -> Tensor:
        """The dense tensor of the base (None), of an expert (its index) or of a bank (its name), on the device."""
        if key is None:
            return self.base
        if isinstance(key, str):
            return self.bank(key)
        update = self.update(key) if self.kinds[key] == "weight" else None
        return update if isinstance(update, Tensor) else self.expert(key)

    def flat(self, key: Key) -> Tensor:
        """`dense` flattened to one axis; a view is cached, because every candidate reads it."""
        flat = self._flat.get(key)
        if flat is None:
            stored = self._stored(key)
            flat = self.dense(key).reshape(-1).detach()
            # A copy is not cached: it would occupy device memory that the placement reserved for something else.
            if isinstance(stored, Tensor) and stored.device == flat.device and stored.data_ptr() == flat.data_ptr():
                self._flat[key] = flat
        return flat

    def _stored(self, key: Key) -> LazyUpdate:
        if key is None:
            return self._base
        return self.prepared[f"bank.{key}"] if isinstance(key, str) else self._updates[key]

    def to(self, device: torch.device) -> "Sources":
        """The same sources with every tensor on `device`; copies from pinned memory are asynchronous."""

        def moved(update: Update) -> Update:
            if isinstance(update, Factors):
                up, down = (side.to(device, non_blocking=True) for side in (update.up, update.down))
                return Factors(up, down, update.scale)
            return None if update is None else update.to(device, non_blocking=True)

        base = (self._base() if callable(self._base) else self._base).to(device, non_blocking=True)
        copy = Sources(self.name, base, [moved(_computed(update)) for update in self._updates], device)
        copy.set_prepared(
            {
                name: tensor.to(device, non_blocking=True) if name.startswith("bank.") else tensor
                for name, tensor in self.prepared.items()
            }
        )
        return copy

    def tensors(self) -> list[Tensor]:
        """Every stored tensor that a pass may read."""
        sides = (side for u in self._updates if isinstance(u, Factors) for side in (u.up, u.down))
        whole = (stored for stored in (self._base, *self._updates) if isinstance(stored, Tensor))
        banks = (tensor for name, tensor in self.prepared.items() if name.startswith("bank."))
        return [*whole, *sides, *banks]

    def update(self, index: int) -> Update:
        """One expert's update on the device: its dense weight, its factors, or None if it equals the base."""
        update = _computed(self._updates[index])
        if isinstance(update, Factors):
            return Factors(update.up.to(self.device), update.down.to(self.device), update.scale)
        return None if update is None else update.to(self.device)

    def factors(self) -> list[Factors] | None:
        """Every expert's factors, of rank 0 if it equals the base; None if some expert has a dense weight."""
        updates = [self.update(i) for i in range(len(self))]
        if any(isinstance(update, Tensor) for update in updates) or len(self.shape) != 2:
            return None
        rows, columns = self.shape
        empty = Factors(torch.zeros(rows, 0, device=self.device), torch.zeros(0, columns, device=self.device), 1.0)
        return [update if isinstance(update, Factors) else empty for update in updates]

    def expert(self, index: int) -> Tensor:
        """The expert's weight in fp32; read-only, because it may alias a stored fp32 tensor."""
        update = self.update(index)
        if isinstance(update, Factors):
            return dense(update).add_(self.base)
        return (self.base if update is None else update).float()

    def delta(self, index: int) -> Tensor:
        """The task vector expert − base: a new fp32 tensor with the same bits as in a pass."""
        update = self.update(index)
        if isinstance(update, Factors):
            return dense(update)
        if update is None:
            return torch.zeros_like(self.base, dtype=torch.float32)
        return update.to(torch.float32, copy=True).sub_(self.base)


def _kind(update: LazyUpdate) -> Kind:
    if update is None:
        return "none"
    return "update" if isinstance(update, Factors) else "weight"


def _computed(update: LazyUpdate) -> Update:
    return update() if callable(update) else update
