"""Each command of the documentation runs, or says what it needs and is read by the program's parser."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.cli.parser import command_parsers, quick_parser
from evomerge.errors import ConfigError
from experiments.quickstart.example_files import make_example_files
from tests.conftest import ROOT
from tests.docs.pages import COMMAND, Block, blocks, blocks_of, command_lines, pages

PAGES = pages()
PROGRAM = ("evomerge", "python -m evomerge")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.runs or block.file]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_block_of_commands_is_marked_as_one(page: Path) -> None:
    for block in blocks(page):
        if block.language not in ("bash", "text"):
            assert block.language or not COMMAND.search(block.text), f"{name(page)}: tag as bash or text:\n{block.text}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_line_of_the_program_can_be_parsed(page: Path) -> None:
    _, parsers = command_parsers()
    for block in (block for block in blocks(page) if block.language == "bash"):
        for line in command_lines(block):
            program = next((start for start in PROGRAM if line.startswith(f"{start} ")), None)
            if program is None:
                continue
            words = shlex.split(line.removeprefix(program))
            if words[0].endswith(".yaml"):  # an experiment file is followed by overrides and --out
                words = [word for word in words if word != "--out"]
            is_quick = words[0] not in parsers and ("--tasks" in words or "--for" in words)
            parser = quick_parser() if is_quick else parsers.get(words[0], parsers["search"])
            try:
                parser.parse_args(words[1:] if words[0] in parsers else words)
            except ConfigError as error:
                pytest.fail(f"{name(page)}: {line}: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs for block in blocks(page))], ids=name)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    make_example_files(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    tools = tmp_path / ".bin"
    tools.mkdir()
    for tool, words in {"python": "", "evomerge": "-m evomerge"}.items():
        (tools / tool).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (tools / tool).chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    for block in runnable(page):
        if block.file:
            (tmp_path / block.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.file).write_text(block.text)
            continue
        shell = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
        done = subprocess.run([*shell, block.text], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{name(page)}:\n{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def test_a_failing_command_fails_the_page() -> None:
    text = "<!-- needs: a GPU -->\n```bash\nevomerge merge a b  # why\n```\n"
    found = list(blocks_of(text))
    assert found == [Block("bash", "evomerge merge a b  # why\n", needs="a GPU")]
    assert not found[0].runs and list(command_lines(found[0])) == ["evomerge merge a b"]
