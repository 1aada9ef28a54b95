"""Files that must stay as they were when they were opened: weights are read again and again while a search runs."""

import os
from collections.abc import Iterable
from pathlib import Path

from evomerge.errors import RunError

Stamp = tuple[int, int, int]  # inode, bytes, time of the last change


class FileStamps:
    """The size and the time of the last change of some files, as they are now."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._stamps = {path: _stamp(path) for path in paths}

    def refuse_changed(self) -> None:
        """RunError for the first file that was changed, replaced or removed since."""
        for path, before in self._stamps.items():
            if _stamp(path) == before:
                continue
            what = "was changed" if path.exists() else "was removed"
            raise RunError(
                f"{path}: {what} while it was in use; restore it and repeat the command. No score of other weights was "
                "recorded"
            )


def _stamp(path: Path) -> Stamp | None:
    """None for a file that is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
