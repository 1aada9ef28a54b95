"""The map of CONTRIBUTING.md: every room is on it, and a file imports only from its own row or from rows below."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "evomerge"


def rows() -> dict[str, int]:
    """Room → its row in the map."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = [line for line in text.partition("## The rooms")[2].partition("Beside the package")[0].splitlines()]
    cells = [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in table if line.startswith("| `")]
    return {name.removesuffix(".py").rstrip("/"): row for row, names in enumerate(cells) for name in names}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "evomerge":
            below = (node.module or "").split(".")[1:]
            yield from [below[0]] if below else [alias.name for alias in node.names]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_the_map_and_the_package_hold_the_same_rooms() -> None:
    assert {room_of(path) for path in FILES} == set(rows())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_the_map(path: Path) -> None:
    place = rows()
    upwards = [room for room in imported_rooms(path) if place.get(room, 99) < place[room_of(path)]]
    assert not upwards, f"{path.name} imports from rooms above its own: {upwards}"
