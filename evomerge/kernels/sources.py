"""One tensor of the base and of each expert, read once and never written, with what was prepared for it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from evomerge.kernels.factors import Factors
from evomerge.kernels.lowrank import dense

# What an expert brings to one tensor: its dense weight, a low-rank update of the base, or nothing new.
Update = Tensor | Factors | None
# The same where it is kept, or what makes a dense weight where keeping it would cost an fp32 copy of a model.
Held = Update | Callable[[], Tensor]
Kind = Literal["weight", "update", "none"]
Key = None | int | str  # the base, an expert's place, a prepared tensor's name


class Sources:
    """The base's tensor and one update per expert; `name` is the parameter's, the same in every file layout.

    What is held stays where it is stored until it is asked for: `device` is where each access brings it, so that a
    pass over sources in the page cache costs the device one tensor at a time. `prepared` holds the method's tensors
    for this one: tables on the host, and banks, as large as a weight, whose names begin with `bank.`.
    """

    def __init__(
        self,
        name: str,
        base: Tensor | Callable[[], Tensor],
        updates: Sequence[Held],
        device: torch.device | str = "cpu",
    ) -> None:
        self.name = name
        self.prepared: Mapping[str, Tensor] = {}
        self.ready = False
        self.device = torch.device(device)
        self.kinds = tuple(map(_kind, updates))
        self._base, self._updates = base, tuple(updates)
        self._flat: dict[Key, Tensor] = {}

    def hold(self, prepared: Mapping[str, Tensor]) -> None:
        """Take in what the method prepared for this tensor."""
        self.prepared, self.ready = prepared, True

    def let_go(self) -> None:
        """Forget what was prepared where banks, as large as the weight, are among it."""
        if any(name.startswith("bank.") for name in self.prepared):
            self.prepared, self.ready = {}, False
            self._flat = {key: flat for key, flat in self._flat.items() if not isinstance(key, str)}

    def __len__(self) -> int:
        return len(self._updates)

    @cached_property
    def shape(self) -> torch.Size:
        """The tensor's shape, the same in every model."""
        return self.base.shape

    @property
    def base(self) -> Tensor:
        """The base's tensor, on the device."""
        return (self._base() if callable(self._base) else self._base).to(self.device)

    def bank(self, name: str) -> Tensor:
        """A prepared tensor that a pass reads (its name in the state is `bank.NAME`), on the device."""
        return self.prepared[f"bank.{name}"].to(self.device)

    def dense(self, key: Key) -> Tensor:
        """The base (None), an expert by its place, or a prepared tensor by its name, whole and on the device."""
        if key is None:
            return self.base
        if isinstance(key, str):
            return self.bank(key)
        update = self.update(key) if self.kinds[key] == "weight" else None
        return update if isinstance(update, Tensor) else self.expert(key)

    def flat(self, key: Key) -> Tensor:
        """The elements of `dense` in one row; kept where it is a view, because every candidate asks for it."""
        found = self._flat.get(key)
        if found is None:
            held = self._held(key)
            found = self.dense(key).reshape(-1).detach()
            # A copy is not kept: it would take the device memory that the placement left alone.
            if isinstance(held, Tensor) and held.device == found.device and held.data_ptr() == found.data_ptr():
                self._flat[key] = found
        return found

    def _held(self, key: Key) -> Held:
        if key is None:
            return self._base
        return self.prepared[f"bank.{key}"] if isinstance(key, str) else self._updates[key]

    def on(self, device: torch.device) -> "Sources":
        """The same sources with every tensor on a device; from pinned memory the copies do not block."""

        def moved(update: Update) -> Update:
            if isinstance(update, Factors):
                up, down = (side.to(device, non_blocking=True) for side in (update.up, update.down))
                return Factors(up, down, update.scale)
            return None if update is None else update.to(device, non_blocking=True)

        base = (self._base() if callable(self._base) else self._base).to(device, non_blocking=True)
        found = Sources(self.name, base, [moved(_made(update)) for update in self._updates], device)
        found.hold(
            {
                name: tensor.to(device, non_blocking=True) if name.startswith("bank.") else tensor
                for name, tensor in self.prepared.items()
            }
        )
        return found

    def tensors(self) -> list[Tensor]:
        """Everything that a pass may read and that is held."""
        sides = (side for u in self._updates if isinstance(u, Factors) for side in (u.up, u.down))
        whole = (held for held in (self._base, *self._updates) if isinstance(held, Tensor))
        banks = (tensor for name, tensor in self.prepared.items() if name.startswith("bank."))
        return [*whole, *sides, *banks]

    def update(self, index: int) -> Update:
        """What one expert brings, on the device."""
        update = _made(self._updates[index])
        if isinstance(update, Factors):
            return Factors(update.up.to(self.device), update.down.to(self.device), update.scale)
        return None if update is None else update.to(self.device)

    def factors(self) -> list[Factors] | None:
        """Every expert's low-rank update, or None where one of them brings a dense weight; nothing new has rank 0."""
        found = [self.update(i) for i in range(len(self))]
        if any(isinstance(update, Tensor) for update in found) or len(self.shape) != 2:
            return None
        rows, columns = self.shape
        empty = Factors(torch.zeros(rows, 0, device=self.device), torch.zeros(0, columns, device=self.device), 1.0)
        return [update if isinstance(update, Factors) else empty for update in found]

    def expert(self, index: int) -> Tensor:
        """The expert's weight in fp32; may alias a stored fp32 tensor, so it is read-only."""
        update = self.update(index)
        if isinstance(update, Factors):
            return dense(update).add_(self.base)
        return (self.base if update is None else update).float()

    def delta(self, index: int) -> Tensor:
        """The task vector expert − base in fp32, a tensor of its own with the same bits as in a pass."""
        update = self.update(index)
        if isinstance(update, Factors):
            return dense(update)
        if update is None:
            return torch.zeros_like(self.base, dtype=torch.float32)
        return update.to(torch.float32, copy=True).sub_(self.base)


def _kind(held: Held) -> Kind:
    if held is None:
        return "none"
    return "update" if isinstance(held, Factors) else "weight"


def _made(held: Held) -> Update:
    return held() if callable(held) else held
