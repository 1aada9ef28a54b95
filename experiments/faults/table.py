"""The rows of the table of faults, and the page that holds them."""

from collections.abc import Iterable
from dataclasses import dataclass

HEAD = """# Reliability

What happens to a search when something goes wrong. `make faults` measures it and writes this page.

Each fault is injected into a search of 24 candidates on the quickstart's family: TIES, four tasks, the tables of the
method in the cache, and the export of the winner. Then the same command is repeated until it ends.

- *As undisturbed*: the recipe, result.json (without times) and the merged weights equal those of an undisturbed search
  to the byte. The ledger has each chunk once. At most one chunk is paid for twice for each interruption. No temporary
  file is left, and no traceback was printed.
- *One line*: the command ends with one line that names the file, and its exit code is not 0. Nothing was scored, and no
  code of the input was executed.
"""


@dataclass(frozen=True)
class Row:
    """A fault: what, where, how often, how often all was well, and what was seen."""

    fault: str
    where: str
    times: int
    well: int
    seen: str
    wrong: tuple[str, ...] = ()


def page(interruptions: Iterable[Row], inputs: Iterable[Row], machine: str) -> str:
    """The page in Markdown."""
    parts = [
        HEAD,
        f"{machine}\n",
        "## Interruptions\n",
        "| fault | where | as undisturbed | seen |\n|---|---|---|---|",
        *(f"| {row.fault} | {row.where} | {row.well} of {row.times} | {row.seen} |" for row in interruptions),
        "\n## Damaged and hostile files\n",
        "| input | one line | the line |\n|---|---|---|",
        *(f"| {row.fault} | {row.well} of {row.times} | {row.seen} |" for row in inputs),
    ]
    return "\n".join(parts) + "\n"
