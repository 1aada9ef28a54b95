"""What methods prepare, kept: in memory for a one-off merge, on disk for a search and for every worker of a node.

One safetensors file per tensor of the model, read back as memory maps, so that workers share its pages. A file's place
is named by everything that its content depends on, so it is never out of date.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from evomerge.errors import remedy
from evomerge.methods import State
from evomerge.version import __version__

log = logging.getLogger(__name__)

FORMAT = 1
_told: set[Path] = set()  # folders that take nothing: one word about each is enough, however many read from it


def cache_folder() -> Path:
    """EVOMERGE_CACHE, or `evomerge` in the user's cache folder."""
    if chosen := os.environ.get("EVOMERGE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evomerge"


def digest(*parts: Any) -> str:
    """24 hex digits that name plain values."""
    text = json.dumps([FORMAT, __version__, *parts], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


class Prepared:
    """States by key and tensor name; `folder` None keeps them in memory only."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    @property
    def in_memory(self) -> bool:
        """Whether nothing is kept on disk."""
        return self._folder is None

    def get(self, key: str, name: str, prepare: Callable[[], State]) -> State:
        """The state, from disk where it is already there."""
        if self._folder is None:
            return _on_host(prepare())
        path = self._folder / key / f"{name}.safetensors"
        with suppress(OSError, SafetensorError):  # not there, or cut short by a crash
            return load_file(path)
        state = prepare()
        return load_file(path) if state and self._keep(path, state) else _on_host(state)

    def _keep(self, path: Path, state: State) -> bool:
        """Write for the others and for the page cache; a full disk costs them the work, not the run."""
        partial = path.with_suffix(f".{uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.contiguous().cpu() for name, tensor in state.items()}, partial)
            partial.chmod(0o644)  # safetensors writes for the owner alone
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
            return True
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            if self._folder not in _told and self._folder:
                told = "%s: what was prepared could not be kept (%s), so it is computed again next time; %s or set "
                told += "EVOMERGE_CACHE to a folder that can be written"
                log.warning(told, path, error, remedy(error))
                _told.add(self._folder)
            self._folder = None
            return False


def _on_host(state: State) -> State:
    """A bank must not stay where it happened to be computed: a device may have no room for it."""
    return {name: tensor.cpu() for name, tensor in state.items()}
