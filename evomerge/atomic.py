"""Files that are replaced whole: a reader, or a crash, sees the old text or the new, never half."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from evomerge.errors import ConfigError, unwritable


def refuse_unwritable(path: Path) -> None:
    """ConfigError where no file could be written at the path; leaves nothing behind."""
    try:
        if path.exists():
            path.open("ab").close()
        else:
            with tempfile.TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists())):
                pass
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; give the path of a file that can be written") from None


def write_atomically(path: Path, text: str) -> None:
    """Write beside the file, sync, rename; RunError where the disk refuses."""
    staging = path.with_name(path.name + ".partial")
    try:
        with staging.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    except OSError as error:
        with suppress(OSError):  # where nothing may be written, nothing may be removed
            staging.unlink(missing_ok=True)
        raise unwritable(path, error) from error
