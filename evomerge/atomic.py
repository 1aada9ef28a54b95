"""Files that are replaced whole: a reader, or a crash, sees the old text or the new, never half."""

import os
from contextlib import suppress
from pathlib import Path

from evomerge.errors import unwritable


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
