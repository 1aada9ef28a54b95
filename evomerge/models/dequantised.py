"""The plain copy of a quantised checkpoint in the cache: its configuration at once, its weights when one is read.

The copy's folder is named by a digest of the path, size and time of change of the weight files, of the configuration
and of the dtype. Until a weight is read it contains the headers only, so that a check costs nothing.
"""

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from torch import Tensor

from evomerge.errors import ExpertError, RunError, remedy_for
from evomerge.models.checkpoint import METADATA_FILES, SINGLE_FILE, Checkpoint, Shape, equal_tensors, read_json
from evomerge.models.dense_file import write_dense_file
from evomerge.models.dense_plan import PLAIN_BYTES, DensePlan, plan_folder, quantisation, target_dtype
from evomerge.models.gguf_file import is_gguf, plan_gguf, save_gguf_tokenizer
from evomerge.paths import cache_folder
from evomerge.terminal import size

log = logging.getLogger(__name__)

FORMAT = 2  # raised when a copy would get other values than before
SOURCE_FILE = "dequantised.json"
QUANTISER_FILES = ("quantize_config.json", "quant_config.json")  # settings beside config.json of GPTQ and AWQ
NOT_LINKED = ("config.json", "*.index.json", SOURCE_FILE, *QUANTISER_FILES)
CACHE_REMEDY = "free disk space, or set EVOMERGE_CACHE to a folder on another disk"


@dataclass(frozen=True)
class Origin:
    """What a plain copy was made from; `headers` are the shape and safetensors dtype of each tensor."""

    source: Path
    format: str
    dtype: str
    declared: str  # the dtype without the environment variable
    headers: dict[str, tuple[Shape, str]]

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors of the copy."""
        return sum(prod(shape) * PLAIN_BYTES[dtype] for shape, dtype in self.headers.values())


def plain_folder(source: Path) -> Path:
    """The folder itself, or the folder of the plain copy of a quantised checkpoint or a GGUF file, without its weights.

    Reads headers and configurations alone. ExpertError for a quantisation that is not known.
    """
    if not is_gguf(source) and quantisation(source) is None:
        return source
    folder = cache_folder() / "dequantised" / _key(source)
    try:
        if not (folder / SOURCE_FILE).is_file():
            _make(source, folder)
        if source.is_dir():
            _link_metadata(source, folder)
    except OSError as error:
        raise _cache_error(folder, error) from error
    return folder


def origin(folder: Path) -> Origin | None:
    """What the plain copy in this folder was made from; None for any other folder."""
    if not (folder / SOURCE_FILE).is_file():
        return None
    about = read_json(folder / SOURCE_FILE)
    headers = {name: (tuple(shape), dtype) for name, (shape, dtype) in about["tensors"].items()}
    return Origin(Path(about["source"]), about["format"], about["dtype"], about["declared"], headers)


def complete(folder: Path) -> None:
    """Dequantise the weights of a plain copy unless they are there; does nothing for another folder.

    Other processes wait. RunError before the work if the disk has too little room, and if writing fails.
    """
    made_from = None if (folder / SINGLE_FILE).is_file() else origin(folder)
    if made_from is None:
        return
    try:
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise _cache_error(folder, error) from error
    with lock, _locked(lock, folder):
        if not (folder / SINGLE_FILE).is_file():
            _write_weights(made_from, folder)


def is_complete(folder: Path) -> bool:
    """Whether the weights of a plain copy are in its folder."""
    return (folder / SINGLE_FILE).is_file()


def open_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in the folder; that of a plain copy is dequantised when a weight is first read."""
    made_from = origin(folder)
    return DequantisedCheckpoint(folder, made_from) if made_from else Checkpoint(folder)


class DequantisedCheckpoint(Checkpoint):
    """The tensors of a plain copy; headers come from its plan, and its hash is that of the files of the user."""

    def __init__(self, folder: Path, made_from: Origin) -> None:
        self.origin = made_from
        super().__init__(folder)

    def shape(self, name: str) -> Shape:
        """The tensor's shape when it is dequantised."""
        return self.origin.headers[name][0]

    def dtype(self, name: str) -> str:
        """The tensor's safetensors dtype when it is dequantised."""
        return self.origin.headers[name][1]

    def tensor(self, name: str) -> Tensor:
        """The dequantised tensor, as a view of the memory-mapped copy."""
        complete(self.folder)
        return super().tensor(name)

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors have the same values; computes these two alone if the copy is not there."""
        if is_complete(self.folder):
            return super().equal(one, other)
        tensors = _plan(self.origin.source, self.folder.name).tensors
        return equal_tensors(tensors[one].read(), tensors[other].read())

    def weight_files(self) -> list[Path]:
        """The quantised files, which the user has."""
        source = self.origin.source
        return Checkpoint(source).weight_files() if source.is_dir() else [source]

    @property
    def source_folder(self) -> Path:
        """The folder of the user's files."""
        return self.origin.source if self.origin.source.is_dir() else self.origin.source.parent

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the quantised files, with the dtype where the environment variable changes it.

        Scores, prepared tables and other machines are thereby kept apart that have other weights of the same files.
        """
        made = self.origin
        return self.source_sha256 if made.dtype == made.declared else f"{self.source_sha256} as {made.dtype}"

    @cached_property
    def source_sha256(self) -> str:
        """SHA-256 of the quantised files, which the user has."""
        source = self.origin.source
        if source.is_dir():
            return Checkpoint(source).sha256
        with source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def _index(self) -> dict[str, str]:
        return dict.fromkeys(self.origin.headers, SINGLE_FILE)


@lru_cache(maxsize=2)
def _plan(source: Path, key: str) -> DensePlan:
    """The plan of the source whose digest is `key`; kept, because the header of a GGUF file takes seconds to read."""
    return plan_gguf(source) if is_gguf(source) else plan_folder(source)


def _key(source: Path) -> str:
    """A digest of the source's weight files and configuration, and of the dtype."""
    try:
        files = [source] if is_gguf(source) else [source / name for name in Checkpoint(source).files]
        stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except OSError as error:
        raise ExpertError(f"{source}: {error.strerror}; give the path of a GGUF file or a model's folder") from None
    config = {} if is_gguf(source) else read_json(source / "config.json")
    text = json.dumps([FORMAT, stamps, config, target_dtype(config)], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _make(source: Path, folder: Path) -> None:
    """Write all files of the copy except its weights; the folder appears complete."""
    plan = _plan(source.resolve(), folder.name)
    partial = folder.with_name(f"{folder.name}.{uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        if is_gguf(source):
            save_gguf_tokenizer(source, partial)
        (partial / "config.json").write_text(json.dumps(plan.config, indent=2) + "\n")
        about: dict[str, Any] = {"source": str(source.resolve()), "format": plan.format}
        about |= {"dtype": plan.dtype, "declared": plan.declared}
        about["tensors"] = {name: [list(tensor.shape), tensor.dtype] for name, tensor in plan.tensors.items()}
        (partial / SOURCE_FILE).write_text(json.dumps(about, indent=1) + "\n")
        with suppress(OSError):  # another process was faster
            partial.rename(folder)
        if not (folder / SOURCE_FILE).is_file():
            raise OSError(f"{folder} could not be made")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _link_metadata(source: Path, folder: Path) -> None:
    """Link the tokenizer, licence, model card and code of the source, whatever they are by now."""
    wanted = {
        file.name: file.resolve()
        for file in source.iterdir()
        if file.is_file()
        and any(file.match(pattern) for pattern in (*METADATA_FILES, "*.py", "*.md", "LICENSE*"))
        and not any(file.match(pattern) for pattern in NOT_LINKED)
    }
    for link in folder.iterdir():
        if link.is_symlink() and wanted.get(link.name) != link.readlink():
            link.unlink(missing_ok=True)
    for name, file in wanted.items():
        with suppress(FileExistsError):
            (folder / name).symlink_to(file)


def _write_weights(made_from: Origin, folder: Path) -> None:
    needed, free = made_from.nbytes, shutil.disk_usage(folder).free
    what = f"{made_from.source}: {made_from.format}, dequantised once to {made_from.dtype}"
    if needed > free:
        raise RunError(f"{what}: needs {size(needed)} in {folder}, where {size(free)} are free; {CACHE_REMEDY}")
    log.warning("%s: %s in %s", what, size(needed), folder)
    partial = folder / f"{SINGLE_FILE}.{uuid4().hex}.partial"
    try:
        write_dense_file(partial, _plan(made_from.source, folder.name).tensors)
        partial.replace(folder / SINGLE_FILE)
    except OSError as error:
        raise _cache_error(folder, error) from error
    finally:
        partial.unlink(missing_ok=True)
        _plan.cache_clear()  # the plan of a GGUF file that is loaded whole refers to all tensors


def _cache_error(folder: Path, error: OSError) -> RunError:
    reason = error.strerror or error
    return RunError(f"{folder}: {reason}; {remedy_for(error)}, or set EVOMERGE_CACHE to a folder that can be written")


@contextmanager
def _locked(file: TextIO, folder: Path) -> Iterator[None]:
    """Let one process at a time into the block; where the file system has no locks, work may be done twice."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX)
        for left in folder.glob(f"{SINGLE_FILE}.*.partial"):  # of a killed process, for no other one is writing
            left.unlink()
    yield
