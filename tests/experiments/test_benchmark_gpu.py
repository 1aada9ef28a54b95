"""The measurement of a GPU: its checks on a CPU, what its rows hold, time limits, and how few packages it needs."""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "experiments" / "benchmarks"
CHECKS = [
    "placements",
    "tables prepared on the device",
    "overflow",
    "unchanged tensors",
    "more than 2³¹ elements",
    "token trees",
    "decoding loop",
    "log-softmax in slices",
]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def gpu(load: Any) -> ModuleType:
    found: ModuleType = load("gpu")
    return found


def test_the_checks_have_these_names(load: Any) -> None:
    assert list(load("_gpu_checks").CHECKS) == CHECKS


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_holds_on_the_cpu(load: Any, tmp_path: Path, name: str) -> None:
    setting = load("_gpu_family").Setting("cpu", tmp_path, small=True)
    assert load("_gpu_checks").CHECKS[name](setting)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", CHECKS)
def test_a_check_holds_on_a_gpu(load: Any, tmp_path: Path, name: str) -> None:
    setting = load("_gpu_family").Setting("cuda", tmp_path, small=False)
    assert load("_gpu_checks").CHECKS[name](setting)


@pytest.mark.gpu
@needs_gpu
def test_the_bytes_of_every_method_are_those_of_the_cpu(load: Any, tmp_path: Path) -> None:
    rows = list(load("_gpu_checks")._bytes_of_methods(load("_gpu_family").Setting("cuda", tmp_path)))
    assert all(row["ok"] for row in rows), [row for row in rows if not row["ok"]]


@pytest.mark.slow
def test_methods_are_compared_byte_by_byte(load: Any, tmp_path: Path) -> None:
    rows = list(load("_gpu_checks")._bytes_of_methods(load("_gpu_family").Setting("cpu", tmp_path, small=True)))
    assert all(row["ok"] and "equals" in row["note"] for row in rows)
    assert len(rows) > 30 and sum("compiled" in row["case"] for row in rows) == 2


def test_other_bytes_fail_a_check(load: Any, tmp_path: Path) -> None:
    checks, family = load("_gpu_checks"), load("_gpu_family")
    members = family.tiny_members(tmp_path)
    recipe, writer = family.recipe_of("linear", members), checks.Materializer(members.family, compiled=False)
    wanted = family.on("cpu", members.model)
    writer.write(recipe, wanted)
    assert checks._row("x", lambda: checks._same(writer, recipe, members.model, wanted))["ok"]
    next(wanted.parameters()).view(-1)[7] *= 1.01
    row = checks._row("x", lambda: checks._same(writer, recipe, members.model, wanted))
    assert row["ok"] is False and row["note"].startswith("AssertionError: 1 of ")


@pytest.mark.parametrize(("module", "rows"), [("_gpu_write", 6), ("_gpu_score", 4), ("_gpu_generate", 2)])
def test_speeds_have_rows_that_the_table_shows(load: Any, tmp_path: Path, module: str, rows: int) -> None:
    setting = load("_gpu_family").Setting("cpu", tmp_path, small=True)
    found = list(load(module).run("8B", setting))
    assert len(found) == rows and all(row["seconds"] > 0 and row["rate"] > 0 for row in found)
    assert all("8B" in row["case"] and row["peak_gb"] is None for row in found)
    if module == "_gpu_write":
        assert all(row["bytes"] == "3 of 3 tensors" for row in found) and "pinned" in found[-1]["case"]
    page = load("_gpu_tables").page({"device": "cpu"}, [json.loads(json.dumps(row)) for row in found])
    assert page.count("\n| ") == rows + 2 and "| 8B" not in page
    heads = [line.count("|") for line in page.splitlines() if "8B" in line or line.startswith("| case")]
    assert len(set(heads)) == 1


def test_a_speed_of_other_bytes_is_a_failure(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, setting = load("_gpu_write"), load("_gpu_family").Setting("cpu", tmp_path, small=True)
    monkeypatch.setattr(module, "METHODS", ["linear", "adapters"])
    written = SimpleNamespace(apply=lambda coefficients, sources, out, runner: out.zero_())
    monkeypatch.setattr(module, "kernels", written)
    found = {row["case"].split()[2]: row for row in module.run("8B", setting)}
    assert found["linear"]["ok"] is False and found["linear"]["bytes"].startswith("0 of 3 tensors")
    assert "ok" not in found["adapters"]


def test_sections_without_time_are_in_the_files(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = ["--json", str(tmp_path / "gpu.json"), "--table", str(tmp_path / "gpu.md")]
    arguments = ["gpu.py", "--device", "cpu", "--small", "--seconds", "0", "--sections", "checks,tests", *files]
    monkeypatch.setattr(sys, "argv", arguments)
    assert gpu.main() == 1
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["section"] for row in rows] == ["checks", "tests"] and "no time was left" in rows[1]["note"]


def _options(gpu: ModuleType, *words: str) -> argparse.Namespace:
    found: argparse.Namespace = gpu.parse(["--device", "cpu", "--small", *words])
    return found


def _broken(setting: Any) -> Iterator[dict[str, Any]]:
    yield {"case": "broken", "ok": True, "note": "begun"}
    raise ValueError("no such thing")


def test_a_section_is_stopped_in_time_and_keeps_its_rows(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A section is a process: here it runs a line of shell in the place of Python."""
    script = 'echo \'{"case": "a"}\' > $1; sleep 60'
    monkeypatch.setattr(gpu, "_command", lambda name, rows, options: ["/bin/sh", "-c", script, "sh", str(rows)])
    start = time.monotonic()
    rows = gpu.measured(gpu.SECTIONS[0], _options(gpu), 1.0)
    assert time.monotonic() - start < 20
    assert [row["case"] for row in rows] == ["a", "checks"]
    assert rows[1]["ok"] is False and rows[1]["note"].startswith("stopped after 1 seconds")


def test_a_contestant_without_a_time_is_a_failure(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """echo '{"case": "a", "seconds": null, "note": "out of memory"}' > $1"""
    monkeypatch.setattr(gpu, "_command", lambda name, rows, options: ["/bin/sh", "-c", script, "sh", str(rows)])
    (row,) = gpu.measured(gpu.SECTIONS[0], _options(gpu), 20.0)
    assert row["ok"] is False and row["note"] == "out of memory"


def test_a_section_that_fails_says_why(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "_command", lambda *words: ["/bin/sh", "-c", "echo first; echo CUDA error >&2; exit 3"])
    (row,) = gpu.measured(gpu.SECTIONS[0], _options(gpu), 20.0)
    assert row["ok"] is False and row["note"] == "CUDA error"
    options = _options(gpu, "--rows", str(tmp_path / "rows"))
    with pytest.raises(ValueError, match="no such thing"):
        gpu.run_section(replace(gpu.SECTIONS[0], run=_broken), options)
    assert json.loads((tmp_path / "rows").read_text())["note"] == "begun"


def test_sections_fit_into_eight_minutes(gpu: ModuleType) -> None:
    assert sum(section.seconds for section in gpu.SECTIONS) <= gpu.TOTAL + 20 and gpu.TOTAL < 480
    with pytest.raises(SystemExit):
        gpu.parse(["--sections", "none"])


def test_the_tests_marked_gpu_are_left_out_with_a_reason(gpu: ModuleType, load: Any, tmp_path: Path) -> None:
    (row,) = gpu._tests(load("_gpu_family").Setting("cpu", tmp_path, small=True))
    assert row["note"] == "left out: a GPU is not there"


def _required(name: str, found: dict[str, Any]) -> None:
    """The distributions that a package needs without its extras."""
    from packaging.requirements import Requirement

    try:
        found[name] = distribution(name)
    except PackageNotFoundError:
        return
    for line in found[name].requires or ():
        requirement = Requirement(line)
        if requirement.name not in found and (not requirement.marker or requirement.marker.evaluate({"extra": ""})):
            _required(requirement.name, found)


@pytest.mark.slow
def test_one_command_with_nothing_but_torch_transformers_and_safetensors(tmp_path: Path) -> None:
    needed: dict[str, Any] = {}
    for name in ("torch", "transformers", "safetensors"):
        _required(name, needed)
    assert ("pytest" not in needed and "lm-eval" not in needed and "rich" not in needed) or "peft" not in needed
    library = tmp_path / "library"
    library.mkdir()
    for found in needed.values():
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            if not (library / top).exists():
                (library / top).symlink_to(Path(found.locate_file(top)))
    arguments = ["--device", "cpu", "--small", "--sections", "score 1B,generate 1B,write 1B,tests"]
    files = ["--json", str(tmp_path / "gpu.json"), "--table", str(tmp_path / "gpu.md")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(library)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", str(BENCHMARKS / "gpu.py"), *arguments, *files]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {row["section"] for row in rows} == {"score 1B", "generate 1B", "write 1B", "tests"}
    assert not any(row.get("ok") is False for row in rows) and len(rows) == 4 + 2 + 5 + 1
    assert "pytest" in rows[-1]["note"] and (tmp_path / "gpu.md").read_text() in done.stdout
