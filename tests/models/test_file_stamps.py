"""Weight files that change while they are in use."""

import os
from pathlib import Path

import pytest

from evomerge.errors import RunError
from evomerge.models.family import Family
from evomerge.models.file_stamps import FileStamps
from tests.families import save_adapter, save_family


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def test_files_that_stay_are_not_refused(weights: Path) -> None:
    stamps = FileStamps([weights])
    weights.read_bytes()
    stamps.refuse_changed()


def test_a_file_that_was_overwritten_replaced_or_removed_is_refused(weights: Path, tmp_path: Path) -> None:
    stamps = FileStamps([weights])
    before = weights.stat()
    with weights.open("r+b") as file:
        file.write(b"W")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(RunError, match=f"{weights}: was changed while it was in use; restore it and repeat"):
        stamps.refuse_changed()
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    stamps.refuse_changed()
    (tmp_path / "new").write_bytes(b"weights")
    (tmp_path / "new").replace(weights)
    with pytest.raises(RunError, match="was changed"):
        stamps.refuse_changed()
    weights.unlink()
    with pytest.raises(RunError, match="was removed"):
        stamps.refuse_changed()


def test_a_family_watches_the_files_of_base_checkpoints_and_adapters(tmp_path: Path) -> None:
    llama = save_family("llama", tmp_path)
    adapter, _ = save_adapter("llama", llama.base, tmp_path / "adapter", rank=2, seed=1)
    family = Family(llama.base, (*llama.experts, adapter))
    family.refuse_changed_files()
    files = sorted(path for path in tmp_path.rglob("*.safetensors"))
    assert len(files) >= len(llama.experts) + 2
    for path in files:
        before = path.stat()
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        with pytest.raises(RunError, match=f"{path}: was changed"):
            family.refuse_changed_files()
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
