"""The rooms of ARCHITECTURE.md: every folder is on its table, imports go down it and only through pages."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "evomerge"
FILES = sorted(PACKAGE.rglob("*.py"))
# Each heavy library is one room's; the loop and the check of a configuration do without.
LIBRARIES = {
    "altair": {"report"},
    "vl_convert": {"report"},
    "cma": {"optimizers"},
    "optuna": {"optimizers"},
    "ray": {"workers.pools"},
    "lm_eval": {"scoring", "scoring.engine", "scoring.tasks"},
    "hydra": {"cli"},
    "omegaconf": {"cli"},
}
HEAVY = {"torch", "transformers", "peft", "lm_eval", "datasets", "scipy", "altair", "cma", "optuna", "ray"}


def table() -> list[str]:
    """The rooms, from the top to the bottom."""
    text = (ROOT / "ARCHITECTURE.md").read_text().partition("## The rooms")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([\w.]+)` \|", text, flags=re.MULTILINE)


PAGES = {".".join(path.parent.relative_to(PACKAGE).parts) for path in PACKAGE.rglob("__init__.py")} - {""}


def room_of(module: str) -> str:
    """The room of a module, '' for the files of the root."""
    parts = module.split(".")[1:]
    found = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in found if name in PAGES), "")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports: pages and files alike."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "evomerge":
            module = str(node.module)
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if inner.removeprefix("evomerge.") in PAGES else module


def libraries(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_the_table_and_the_package_hold_the_same_rooms() -> None:
    assert len(table()) == len(set(table())) and set(table()) == PAGES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_the_table_and_through_pages(path: Path) -> None:
    order, own = table(), room_of(module_of(path))
    for module in imported(path):
        room = room_of(module)
        if path == PACKAGE / "__init__.py" or not room or room == own:
            continue
        if not own:
            assert path.name == "__main__.py", f"{path.name} is for all rooms, and imports from {room}"
            continue
        assert order.index(room) > order.index(own), f"{module} is above {own}"
        assert module.removeprefix("evomerge.") == room, f"{module} is a private file of {room}"


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_page_says_what_its_room_is_and_offers_what_it_lists(page: str) -> None:
    module = importlib.import_module(f"evomerge.{page}")
    assert module.__doc__ and module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
    files = {path.stem for path in PACKAGE.joinpath(*page.split(".")).iterdir()}
    assert not files & set(module.__all__), "a name that is also a file's would depend on the order of imports"
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_each_library_is_imported_by_one_room() -> None:
    for path in FILES:
        for library in libraries(path) & set(LIBRARIES):
            assert room_of(module_of(path)) in LIBRARIES[library], f"{path} imports {library}"


def test_ray_and_hydra_are_imported_by_one_file() -> None:
    users = {library: [path.name for path in FILES if library in libraries(path)] for library in ("ray", "hydra")}
    assert users == {"ray": ["_ray_connection.py"], "hydra": ["compose.py"]}


@pytest.mark.parametrize(
    "statement",
    [
        "import evomerge",
        "from evomerge.scoring import Chunk, Plan, Scorer",
        "from evomerge.searching import Evaluator, search",
        "from evomerge.cli.parser import command_parsers; command_parsers()",
        "from evomerge.experiment import read_config",
        "from evomerge import methods; methods.check('ties')",
    ],
)
def test_what_must_be_fast_imports_no_heavy_library(statement: str) -> None:
    code = f"import sys; {statement}; print({HEAVY!r} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.strip() == "set()"
