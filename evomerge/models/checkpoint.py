"""A checkpoint as a lazy, read-only mapping from tensor names to tensors: a hub id or folder, one file or shards.

Tensors are views of memory-mapped safetensors files, which all workers of a node share. They must not be written to:
two reads of a tensor alias each other.
"""

import hashlib
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
from evomerge.hub import offline_reason
from evomerge.notices import warn_once
from evomerge.parsing import parse_json
from evomerge.schema import FilePath, as_yaml

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
METADATA_FILES = ["*.json", "*.model", "*.jinja", "*.txt", "tokenizer*"]
WEIGHTS_KEY = "transformers_weights"  # the key of config.json that names a weight file other than the default
WEIGHT_PATTERNS = ("model*.safetensors", INDEX_FILE, "pytorch_model*.bin")
LFS_HEADER = b"version https://git-lfs"

Shape = tuple[int, ...]

TOO_MANY_REQUESTS, SERVER_ERRORS = 429, 500  # of HTTP


def fetch(path: str, revision: str | None, *, weights: bool = True) -> Path:
    """The local folder of a model: the folder itself, or the hub snapshot at `revision`; of a GGUF file, the file.

    With `weights=False` only configuration and tokenizer are downloaded, to check them before gigabytes of weights.
    """
    if path.endswith(".gguf"):
        return _fetch_file(path, revision)
    if Path(path).is_dir():
        if revision:
            raise ExpertError(f"{path}@{revision}: a local folder has no revisions; drop the @{revision}")
        return Path(path)
    if Path(path).is_absolute() or path.startswith(".") or path.count("/") != 1:
        raise ExpertError(f"{path}: no such folder; give a folder or a hub id of the form owner/name")
    from huggingface_hub import snapshot_download  # slow import, and folders do not need it

    patterns = [*METADATA_FILES, *(["*.safetensors"] if weights else [])]
    offline = offline_reason()
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=patterns, local_files_only=bool(offline)))
    except Exception as error:  # the hub client raises many unrelated classes, which mean the same to a user
        raise ExpertError(f"{path}: neither a folder nor a reachable hub model ({_hub_problem(error)}") from error


def _fetch_file(path: str, revision: str | None) -> Path:
    """A local file, or the file of a hub repository that is written as owner/name/file."""
    if Path(path).is_file():
        if revision:
            raise ExpertError(f"{path}@{revision}: a local file has no revisions; drop the @{revision}")
        return Path(path)
    if Path(path).is_absolute() or path.startswith(".") or path.count("/") < 2:
        raise ExpertError(f"{path}: no such file; give a file, or owner/name/file of the hub")
    from huggingface_hub import hf_hub_download  # slow import, and files do not need it

    owner, name, file = path.split("/", 2)
    offline = offline_reason()
    try:
        return Path(hf_hub_download(f"{owner}/{name}", file, revision=revision, local_files_only=bool(offline)))
    except Exception as error:  # as for a folder
        raise ExpertError(f"{path}: neither a file nor one of the hub ({_hub_problem(error)}") from error


def _hub_problem(error: Exception) -> str:
    """The reason, a bracket that closes it, and the remedy."""
    if offline := offline_reason():
        return f"{offline}, and it is not in the cache); check the spelling"
    answer: BaseException = error
    while not hasattr(answer, "response") and answer.__cause__ is not None:
        answer = answer.__cause__  # the client reports the hub's answer as a file that is not in the cache
    reason = (str(answer).strip().splitlines() or [type(answer).__name__])[0]
    status = getattr(getattr(answer, "response", None), "status_code", 0)
    if type(answer).__name__ == "GatedRepoError":
        return f"{reason}); it is gated: accept its terms on its page, then `hf auth login`"
    if status == TOO_MANY_REQUESTS:
        return f"{reason}); the hub limits your requests: wait some minutes, or `hf auth login`"
    if status >= SERVER_ERRORS:
        return f"{reason}); the hub fails: try again later, or give a local folder"
    return f"{reason}); check the spelling, and `hf auth login` if it is private"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ExpertError names the file if it is missing or invalid."""
    try:
        return dict(parse_json(path.read_text(encoding="utf-8"), repeated_keys=True))
    except FileNotFoundError:
        raise ExpertError(f"{path}: missing; is {path.parent} a complete model folder?") from None
    except (ValueError, TypeError) as error:
        raise ExpertError(f"{path}: not a JSON object ({error}); download it again") from None


def open_safetensors(path: Path) -> Any:
    """An open safetensors file; ExpertError says whether it is missing, truncated or a Git LFS pointer."""
    if not path.is_file():
        raise ExpertError(f"{path}: missing; download the model again")
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        with path.open("rb") as file:
            pointer = file.read(len(LFS_HEADER)) == LFS_HEADER
        if pointer:
            raise ExpertError(f"{path}: a Git LFS pointer, not weights; run `git lfs pull` in {path.parent}") from None
        raise ExpertError(f"{path}: truncated or not safetensors ({error}); download it again") from None


def warn_about_unread_weights(folder: Path, read: Collection[str], *patterns: str) -> None:
    """Warn once if the folder has weight files matching `patterns` that are not among the files `read`."""
    present = {path.name for pattern in patterns for path in folder.glob(pattern)}
    is_single = len(read) == 1 and not next(iter(read)).startswith("model-")
    if unread := sorted(present - set(read) - (set() if is_single else {INDEX_FILE})):
        first = next(iter(read)) if is_single else f"{len(read)} shards of {INDEX_FILE}"
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        warn_once(f"{folder}: {first} is read, as transformers and peft do; {unread[0]}{more} beside it is not")


def equal_tensors(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal after the second is converted to the dtype of the first."""
    return one.shape == other.shape and torch.equal(one, other.to(one.dtype))


def itemsize(dtype: str) -> int:
    """Bytes of an element of this safetensors dtype (F32, BF16, F8_E4M3, …)."""
    bits = re.search(r"\d+", dtype)
    return max(int(bits[0]) // 8, 1) if bits else 1


class Checkpoint:
    """The tensors of one model folder; opening it reads only headers."""

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

    @property
    def files(self) -> list[str]:
        """The names of the weight files, sorted."""
        return sorted(set(self._where.values()))

    def weight_files(self) -> list[Path]:
        """The paths of the files that the hash is of."""
        return [self.folder / name for name in self.files]

    @property
    def source_folder(self) -> Path:
        """The folder of the files that the hash is of."""
        return self.folder

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def shape(self, name: str) -> Shape:
        """The tensor's shape, from the header."""
        return tuple(self._file(name).get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The tensor's safetensors dtype (F32, BF16, …), from the header."""
        return str(self._file(name).get_slice(name).get_dtype())

    def nbytes(self, name: str) -> int:
        """The tensor's bytes in its file."""
        return math.prod(self.shape(name)) * itemsize(self.dtype(name))

    def tensor(self, name: str) -> Tensor:
        """The tensor as a view of the memory-mapped file; it must not be written to."""
        tensor: Tensor = self._file(name).get_tensor(name)
        return tensor

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors have the same values; reads both."""
        return equal_tensors(self._file(one).get_tensor(one), self._file(other).get_tensor(other))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the weight files in the order of their names; reads them completely once."""
        digest = hashlib.sha256()
        for file in self.files:
            with (self.folder / file).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    def _index(self) -> dict[str, str]:
        """Tensor → the file that transformers reads it from; the last shard wins if two have the tensor."""
        files = self._weight_files()
        warn_about_unread_weights(self.folder, files, *WEIGHT_PATTERNS)
        return {name: file for file in files for name in self._open(file).keys()}  # noqa: SIM118 (not a dict)

    def _weight_files(self) -> list[str]:
        """The file that config.json names, else the single file, else the shards of the index.

        The index only lists the shards: transformers reads every tensor in them.
        """
        first = self._named() or (SINGLE_FILE if (self.folder / SINGLE_FILE).is_file() else INDEX_FILE)
        if not first.endswith(".index.json"):
            return [first]
        if not (self.folder / first).is_file():
            raise ExpertError(f"{self.folder}: no {SINGLE_FILE} or {first}{self._instead()}")
        where = read_json(self.folder / first).get("weight_map")
        if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
            raise ExpertError(f"{self.folder / first}: its weight_map names no files; download it again")
        files = sorted(set(where.values()))
        for file in files:  # lexically, because files of a hub snapshot are links to other folders
            if Path(file).is_absolute() or ".." in Path(file).parts or not FilePath().allows(file):
                raise ExpertError(
                    f"{self.folder / first}: names {as_yaml(file)}, outside of its folder; download it again"
                )
        return files

    def _named(self) -> str | None:
        """The weight file that config.json names; None if it names none, as usual."""
        path = self.folder / "config.json"
        file = read_json(path).get(WEIGHTS_KEY) if path.is_file() else None
        if file is None:
            return None
        is_inside = (
            isinstance(file, str)
            and FilePath().allows(file)
            and (self.folder / file).resolve().is_relative_to(self.folder.resolve())
        )
        if not is_inside or not file.endswith((".safetensors", ".safetensors.index.json")):
            raise ExpertError(
                f"{path}: {WEIGHTS_KEY} is {file!r}, not a safetensors file of the folder; delete the key"
            )
        return str(file)

    def _instead(self) -> str:
        """The end of the message about missing weights: which other weights the folder has, and the remedy."""
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
