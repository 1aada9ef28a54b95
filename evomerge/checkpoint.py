"""A checkpoint as a lazy, read-only mapping from tensor name to tensor: hub id or folder, one file or shards.

Tensors come straight from the page cache (safetensors memory maps), which every worker of a node shares. Nothing may
write into them: two reads of a tensor alias each other.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.hub import out_of_reach

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
METADATA_FILES = ["*.json", "*.model", "*.jinja", "*.txt", "tokenizer*"]
LFS = b"version https://git-lfs"


def fetch(path: str, revision: str | None, *, weights: bool = True) -> Path:
    """The local folder of a model: the folder itself, or the hub snapshot at `revision`.

    With `weights=False` only configuration and tokenizer are downloaded, so that disagreements show before gigabytes.
    """
    if Path(path).is_dir():
        if revision:
            raise ExpertError(f"{path}@{revision}: a local folder has no revisions; drop the @{revision}")
        return Path(path)
    if Path(path).is_absolute() or path.startswith(".") or path.count("/") != 1:
        raise ExpertError(f"{path}: no such folder; give a folder or a hub id of the form owner/name")
    from huggingface_hub import snapshot_download  # slow import, and folders do not need it

    patterns = [*METADATA_FILES, *(["*.safetensors"] if weights else [])]
    offline = out_of_reach()
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=patterns, local_files_only=bool(offline)))
    except Exception as error:  # the hub client raises a dozen unrelated classes; each means the same to a user
        reason = offline and f"{offline}, and it is not in the cache"
        reason = reason or str(error).strip().splitlines()[0]
        raise ExpertError(
            f"{path}: neither a folder nor a reachable hub model ({reason}); check the spelling"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ExpertError names the file where it is missing or broken."""
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise ExpertError(f"{path}: missing; is {path.parent} a complete model folder?") from None
    except (ValueError, TypeError) as error:
        raise ExpertError(f"{path}: not a JSON object ({error}); download it again") from None


def open_safetensors(path: Path) -> Any:
    """An open safetensors file; ExpertError tells a missing, truncated or Git-LFS-pointer file apart."""
    if not path.is_file():
        raise ExpertError(f"{path}: missing; download the model again")
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        with path.open("rb") as file:
            pointer = file.read(len(LFS)) == LFS
        if pointer:
            raise ExpertError(f"{path}: a Git LFS pointer, not weights; run `git lfs pull` in {path.parent}") from None
        raise ExpertError(f"{path}: truncated or not safetensors ({error}); download it again") from None


class Checkpoint:
    """The tensors of one model folder; opening reads headers only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        self._where = self._index()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The folder's config.json."""
        return read_json(self.folder / "config.json")

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, from the header."""
        return tuple(self._file(name).get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The tensor's safetensors dtype (F32, BF16, …), from the header."""
        return str(self._file(name).get_slice(name).get_dtype())

    def nbytes(self, name: str) -> int:
        """The tensor's bytes in its file."""
        return math.prod(self.shape(name)) * int(re.sub(r"\D", "", self.dtype(name))) // 8

    def tensor(self, name: str) -> Tensor:
        """The tensor, aliasing the page cache: read-only by contract."""
        found: Tensor = self._file(name).get_tensor(name)
        return found

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the weight files in the order of their names: reads every byte once."""
        digest = hashlib.sha256()
        for file in sorted(set(self._where.values())):
            with (self.folder / file).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def _index(self) -> dict[str, str]:
        if (self.folder / INDEX).is_file():
            where = {str(k): str(v) for k, v in read_json(self.folder / INDEX).get("weight_map", {}).items()}
            self._check_shards(where)
            return where
        if not (self.folder / SINGLE).exists():
            old = "; only pytorch_model.bin is there: save it with safe_serialization" if self._has_bin() else ""
            raise ExpertError(f"{self.folder}: no {SINGLE} or {INDEX}{old}")
        return {name: SINGLE for name in self._open(SINGLE).keys()}  # noqa: SIM118 (a safetensors handle, not a dict)

    def _check_shards(self, where: dict[str, str]) -> None:
        for file in sorted(set(where.values())):
            held = set(self._open(file).keys())
            lost = sorted(name for name, place in where.items() if place == file and name not in held)
            if lost:
                raise ExpertError(f"{self.folder / file}: lacks {lost[0]}, which {INDEX} places there; download again")

    def _has_bin(self) -> bool:
        return any(self.folder.glob("pytorch_model*.bin"))

    def _file(self, name: str) -> Any:
        return self._open(self._where[name])

    def _open(self, file: str) -> Any:
        if file not in self._files:
            self._files[file] = open_safetensors(self.folder / file)
        return self._files[file]
