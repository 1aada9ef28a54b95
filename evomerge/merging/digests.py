"""Fingerprints of merged weights, by which two merges are compared bit for bit."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


class Fingerprint:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, independent of their order."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Add one tensor."""
        data = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().data
        self._digests[name] = f"{hashlib.sha256(data).hexdigest()} {tensor.dtype} {tuple(tensor.shape)}"

    def hexdigest(self) -> str:
        """64 hex digits for all tensors added so far."""
        text = "\n".join(f"{name} {digest}" for name, digest in sorted(self._digests.items()))
        return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The fingerprint of named tensors."""
    digest = Fingerprint()
    for name, tensor in tensors:
        digest.add(name, tensor)
    return digest.hexdigest()
