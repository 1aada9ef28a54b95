"""The inputs of one router in a live model, by forward passes that end there."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _Reached(Exception):
    """Ends a forward pass at the router whose inputs are wanted."""


@torch.no_grad()
def router_inputs(model: nn.Module, router: nn.Module, rows: Iterable[Sequence[int]], device: torch.device) -> Tensor:
    """[tokens, hidden] on `device`: what `router` gets for these texts, each of which is a batch of its own."""
    found: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        (hidden, *_) = arguments
        found.append(hidden.reshape(-1, hidden.shape[-1]))
        raise _Reached

    hook = router.register_forward_pre_hook(keep)
    try:
        for row in rows:
            try:
                model(input_ids=torch.tensor([row], device=device), use_cache=False)
            except _Reached:
                continue
    finally:
        hook.remove()
    return torch.cat(found)
