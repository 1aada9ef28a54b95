"""The generated pages are those that the present program would write, and leave no key unexplained."""

import pytest

from docs.reference.__main__ import pages
from docs.reference.configuration import CONF, read_keys
from evomerge import methods
from tests.conftest import ROOT

PAGES = pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_the_present_one(path):
    assert path.read_text(encoding="utf-8") == PAGES[path], "run `make reference`"


def test_every_key_has_values_and_a_meaning():
    rows = [line for line in PAGES[ROOT / "docs/reference/configuration.md"].splitlines() if line.startswith("| `")]
    assert len(rows) > 120
    assert [row for row in rows if "|  |" in row] == []


def test_every_option_of_a_command_has_a_meaning():
    rows = [line for line in PAGES[ROOT / "docs/reference/commands.md"].splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    assert [row for row in rows if row.endswith("|  |")] == []


def test_a_key_is_read_with_its_default_and_comment(tmp_path):
    file = tmp_path / "group.yaml"
    file.write_text('a: {b: "#1"} # one\nsection: # two\n  c: [x, y]\n  d: null # three\nlist:\n  - x\n  - y\n')
    read = [(".".join(key.path), key.default, key.meaning) for key in read_keys(file)]
    assert read == [
        ("a", '{b: "#1"}', "one"),
        ("section", "", "two"),
        ("section.c", "[x, y]", ""),
        ("section.d", "null", "three"),
        ("list", "[x, y]", ""),
    ]


def test_all_groups_of_conf_are_on_the_page():
    page = PAGES[ROOT / "docs/reference/configuration.md"]
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {"experiment"}
    for file in (file for group in groups for file in (CONF / group).glob("*.yaml")):
        assert f"### {file.parent.name}={file.stem}\n" in page


@pytest.mark.parametrize("page", ["README.md", "docs/comparison.md"])
def test_the_number_of_methods_is_that_of_the_program(page):
    (row,) = (
        line for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if "methods in the search" in line
    )
    assert row.split("|")[2].split(",")[0].strip() == str(len(methods.names()))
