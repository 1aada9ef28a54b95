"""Reads the fenced blocks of the documentation's pages.

A block of language `bash` holds commands, one of `python` a program. A comment before a block says what it needs
(`<!-- needs: a GPU -->`), so that it is not run, or the file that it is (`<!-- file: conf/experiment/mine.yaml -->`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

FENCE = re.compile(r"^( *)(?:<!-- (needs|file): (.+?) -->\n+ *)?```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:\$ )?(?:evomerge|python3?|pip|make|git|ray) ", re.MULTILINE)
LANGUAGES = {"bash", "python"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and text, what it `needs` to run, and the name of the `file` that it shows."""

    language: str
    text: str
    needs: str = ""
    file: str = ""

    @property
    def runs(self) -> bool:
        """Whether the test of the page runs the block."""
        return self.language in LANGUAGES and not self.needs


def pages() -> list[Path]:
    """All pages with commands for users, in the order of their paths."""
    found = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("experiments/**/*.md"),
    ]
    return sorted(found)


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page in order."""
    yield from blocks_of(page.read_text(encoding="utf-8"))


def blocks_of(text: str) -> Iterator[Block]:
    """The blocks of a text in order; those inside lists without their indentation."""
    for indent, kind, value, language, body in FENCE.findall(text):
        plain = re.sub(f"^{indent}", "", body, flags=re.MULTILINE)
        yield Block(language, plain, **{kind: value} if kind else {})


def command_lines(block: Block) -> Iterator[str]:
    """The lines of a block of commands without comments; continued lines are joined."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if line := re.sub(r"(^|\s+)#.*$", "", line).strip():
            yield line
