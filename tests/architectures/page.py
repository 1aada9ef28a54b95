"""docs/architectures.md: what the sweep has seen, one line for each architecture."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import transformers

from tests.architectures.configurations import ARCHITECTURES, LEFT_OUT
from tests.architectures.trials import Seen, tried
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "architectures.md"
HEAD = """# Architectures

What a merge and three items show on a tiny random model of every architecture of transformers {version} that
writes text; `make architectures` makes this page. Each model is written with two experts that differ from it in
the whole language model, merged by task arithmetic and by TIES, and loaded again: parameters and logits are those
of a merge by hand of what transformers loads, the file has the names of the base's file, and the live model of a
search is the exported one to the bit. The tensors of the base's file, written to their destinations, are the model
that transformers loads, to the bit.

*merges*: yes, or the line with which the program refuses. *scored*: by token trees, with a context encoded once for all
its answers (encoder-decoders), or plainly, by lm-eval's own forward pass, and why; the numbers are the same.

| architecture | class | merges | scored | |
|---|---|---|---|---|
"""
TAIL = """
Not tried: {left_out}.
"""


def line(name: str, seen: Seen) -> str:
    """One row of the table."""
    cells = (name, f"`{seen.written_by}`", seen.merges, seen.scored, "; ".join(seen.notes))
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def lines() -> dict[str, str]:
    """Architecture → its row on the page."""
    rows = (text for text in PAGE.read_text().splitlines() if text.startswith("| ") and "`" in text)
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows}


def page(seen: Mapping[str, Seen]) -> str:
    """The whole page."""
    rows = "".join(f"{line(name, found)}\n" for name, found in seen.items())
    left_out = ", ".join(f"{name} ({why})" for name, why in sorted(LEFT_OUT.items()))
    return HEAD.format(version=transformers.__version__) + rows + TAIL.format(left_out=left_out)


def main() -> None:
    """Try every architecture and write the page; stops at the first that is not as transformers has it."""
    found = {}
    for name, architecture in ARCHITECTURES.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = tried(architecture, Path(folder))
        sys.stdout.write(f"{line(name, found[name])}\n")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(found))
