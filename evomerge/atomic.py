"""Atomic writes: after a crash, and for concurrent readers, a file contains either the old or the new content."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from evomerge.errors import ConfigError, write_error


def refuse_unwritable(path: Path) -> None:
    """ConfigError if a file at the path could not be written; does not create or change a file."""
    try:
        if path.exists():
            path.open("ab").close()
        else:
            with tempfile.TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists())):
                pass
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; give the path of a file that can be written") from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a temporary file, sync it and rename it to `path`; RunError if writing fails."""
    staging = path.with_name(path.name + ".partial")
    try:
        with staging.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    except OSError as error:
        with suppress(OSError):  # a folder that cannot be written to does not allow removal either
            staging.unlink(missing_ok=True)
        raise write_error(path, error) from error
