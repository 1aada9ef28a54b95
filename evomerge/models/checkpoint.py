"""A checkpoint as a lazy, read-only mapping from tensor name to tensor: hub id or folder, one file or shards.

Tensors come straight from the page cache (safetensors memory maps), which every worker of a node shares. Nothing may
write into them: two reads of a tensor alias each other.
"""

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.hub import out_of_reach
from evomerge.notices import warn_once

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
METADATA_FILES = ["*.json", "*.model", "*.jinja", "*.txt", "tokenizer*"]
EXPLICIT = "transformers_weights"  # the key of config.json that names another file than the usual ones
WEIGHT_PATTERNS = ("model*.safetensors", INDEX, "pytorch_model*.bin")
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


def say_what_is_read(folder: Path, read: Collection[str], *patterns: str) -> None:
    """One line for a folder with weights of another save or format beside those that are read."""
    lie_there = {path.name for pattern in patterns for path in folder.glob(pattern)}
    whole = len(read) == 1 and not next(iter(read)).startswith("model-")
    if beside := sorted(lie_there - set(read) - (set() if whole else {INDEX})):
        first = next(iter(read)) if whole else f"{len(read)} shards of {INDEX}"
        more = f" and {len(beside) - 1} more" if len(beside) > 1 else ""
        warn_once(f"{folder}: {first} is read, as transformers and peft do; {beside[0]}{more} beside it is not")


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal once they are in the first one's dtype."""
    return one.shape == other.shape and torch.equal(one, other.to(one.dtype))


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

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors hold the same numbers: reads both."""
        return same_numbers(self._file(one).get_tensor(one), self._file(other).get_tensor(other))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the weight files in the order of their names: reads every byte once."""
        digest = hashlib.sha256()
        for file in sorted(set(self._where.values())):
            with (self.folder / file).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def _index(self) -> dict[str, str]:
        """Tensor → the file that transformers reads it from; of a tensor in two shards, the last one counts."""
        files = self._weight_files()
        say_what_is_read(self.folder, files, *WEIGHT_PATTERNS)
        return {name: file for file in files for name in self._open(file).keys()}  # noqa: SIM118 (no dict)

    def _weight_files(self) -> list[str]:
        """The file that the configuration names, the single file, or the shards of the index: the first that is there.

        An index only says which shards belong together: transformers reads all that they hold.
        """
        first = self._named() or (SINGLE if (self.folder / SINGLE).is_file() else INDEX)
        if not first.endswith(".index.json"):
            return [first]
        if not (self.folder / first).is_file():
            raise ExpertError(f"{self.folder}: no {SINGLE} or {first}{self._instead()}")
        where = read_json(self.folder / first).get("weight_map")
        if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
            raise ExpertError(f"{self.folder / first}: its weight_map names no files; download it again")
        return sorted(set(where.values()))

    def _named(self) -> str | None:
        """The weight file that config.json names, which is rare."""
        path = self.folder / "config.json"
        found = read_json(path).get(EXPLICIT) if path.is_file() else None
        if found is None:
            return None
        inside = isinstance(found, str) and (self.folder / found).resolve().is_relative_to(self.folder.resolve())
        if not inside or not found.endswith((".safetensors", ".safetensors.index.json")):
            raise ExpertError(f"{path}: {EXPLICIT} is {found!r}, not a safetensors file of the folder; delete the key")
        return str(found)

    def _instead(self) -> str:
        """What the folder holds in place of weights that can be read, and the remedy."""
        variants = sorted(path.name for path in self.folder.glob("model.*.safetensors*"))
        if variants:
            return f"; only the variant {variants[0]} is there: save the model again without a variant"
        pickled = sorted(path.name for path in self.folder.glob("pytorch_model*.bin"))
        return (
            f"; only {pickled[0]} is there: load it with transformers and save_pretrained it again" if pickled else ""
        )

    def _file(self, name: str) -> Any:
        return self._open(self._where[name])

    def _open(self, file: str) -> Any:
        if file not in self._files:
            self._files[file] = open_safetensors(self.folder / file)
        return self._files[file]
