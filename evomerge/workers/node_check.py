"""Whether the models on another machine are those of the search: compared by hash, once per machine."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evomerge.errors import ExpertError
from evomerge.merging import digest
from evomerge.models import Family
from evomerge.paths import cache_folder
from evomerge.workers.jobs import WorkerSpec


def refuse_other_models(spec: WorkerSpec) -> None:
    """ExpertError if a model has other weights here than where the search runs.

    The first worker of a machine reads the weights, the others wait for it. A file in the cache records the result
    until a weight file has another size or time of change, or a quantised model is dequantised to another dtype.
    """
    family = Family(spec.base, spec.experts, spec.model.trust_remote_code, spec.tokenizer)
    dtypes = {model: checkpoint.origin.dtype for model, checkpoint in family.dequantised.items()}
    marker = cache_folder() / "verified" / digest(socket.gethostname(), dict(spec.hashes), _stamps(family), dtypes)
    with _lock(marker.parent):
        if marker.exists():
            return
        found = family.hashes()
        wrong = [model for model, sha256 in spec.hashes.items() if found.get(model) != sha256]
        if wrong:
            raise ExpertError(
                f"{', '.join(wrong)}: other weights here than where the search runs; copy them again, "
                "or use a shared folder or hub ids"
            )
        with suppress(OSError):
            marker.touch()


def _stamps(family: Family) -> list[tuple[str, int, int]]:
    """Path, size and time of change of each weight file."""
    patterns = ("*.safetensors", "*.gguf")
    files = sorted(file for folder in family.folders() for pattern in patterns for file in folder.glob(pattern))
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Within the context, no other process of this machine is in it; no lock where the folder cannot be written."""
    try:
        import fcntl

        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f"lock-{socket.gethostname()}").open("w")
    except (ImportError, OSError):
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
