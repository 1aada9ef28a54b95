"""The name under which a tracker knows the run of a folder."""

import uuid
from pathlib import Path

from evomerge.atomic import write_atomically


def run_identity(folder: Path, tracker: str) -> str:
    """Twelve hexadecimal digits, stored in the folder, so that a search in a new folder is a new run."""
    path = folder / tracker / "evomerge-id"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, uuid.uuid4().hex[:12])
    return path.read_text().strip()
