"""A cache of the tensors that methods prepare: in memory for a single merge, on disk for a search and all its workers.

There is one safetensors file per tensor of the model. Files are memory-mapped, so workers of a node share their pages.
A file's folder is a digest of everything that its content depends on, so a file is never out of date. Its metadata
holds a checksum of its tensors: a damaged file is made again.
"""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from evomerge.errors import remedy_for
from evomerge.methods import State
from evomerge.version import __version__

log = logging.getLogger(__name__)

FORMAT = 2
CHECKSUM = "crc32"  # the key of the metadata
_warned_folders: set[Path] = set()  # folders that cannot be written to; one warning for each is enough


def digest(*parts: Any) -> str:
    """A digest of 24 hex digits of plain values, the package's version and the format of the cache."""
    text = json.dumps([FORMAT, __version__, *parts], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


class Prepared:
    """Prepared states by key and tensor name; with `folder` None they are not stored on disk."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    @property
    def in_memory(self) -> bool:
        """Whether states are not stored on disk."""
        return self._folder is None

    def get(self, key: str, name: str, prepare: Callable[[], State]) -> State:
        """The state from disk, or else from `prepare`, which is then stored."""
        if self._folder is None:
            return _on_host(prepare())
        path = self._folder / key / f"{name}.safetensors"
        if (found := _load(path)) is not None:
            return found
        state = prepare()
        stored = _load(path) if state and self._save(path, state) else None
        return _on_host(state) if stored is None else stored

    def _save(self, path: Path, state: State) -> bool:
        """Write the state to disk; False after a warning if that fails, so that a full disk does not end the run."""
        partial = path.with_suffix(f".{uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tensors = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
            save_file(tensors, partial, metadata={CHECKSUM: _checksum(tensors)})
            partial.chmod(0o644)  # safetensors creates files that only their owner can read
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
            return True
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            if self._folder not in _warned_folders and self._folder:
                message = "%s: the prepared tensors could not be kept (%s) and are computed again next time; %s or set "
                message += "EVOMERGE_CACHE to a folder that can be written"
                log.warning(message, path, error, remedy_for(error))
                _warned_folders.add(self._folder)
            self._folder = None
            return False


def _load(path: Path) -> "State | None":
    """The tensors of a file, memory-mapped; None if it is missing, truncated or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.offset_keys()}
    except (OSError, SafetensorError):
        return None
    if metadata.get(CHECKSUM) == _checksum(state):
        return state
    log.warning("%s: damaged, and made again", path)
    return None


def _checksum(state: State) -> str:
    """A checksum of the names, shapes, dtypes and bytes of contiguous tensors on the host."""
    found = 0
    for name, tensor in sorted(state.items()):
        found = zlib.crc32(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def _on_host(state: State) -> State:
    """The state in host memory: tensors as large as weights, computed on a GPU, may not fit there for long."""
    return {name: tensor.cpu() for name, tensor in state.items()}
