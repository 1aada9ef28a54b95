"""The rows of the tables of faults, the file that keeps them from run to run, and the page that shows them."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

HEAD = """# Reliability

What happens to a search when something goes wrong. `make faults` measures it and writes this page.

Each fault is injected into a search of 12 candidates on the quickstart's family: TIES, four tasks, a race, the tables
of the method in the cache, and the export of the winner. Then the same command is repeated until it ends.

- *As undisturbed*: the recipe, result.json (without times) and the merged weights equal those of an undisturbed search
  to the byte. The ledger has each chunk once. At most one chunk is paid for twice for each interruption (of each
  worker). No temporary file is left, no traceback was printed, and the first repeated command ends well.
- *One line*: the command ends with one line that names the file, and its exit code is not 0. Nothing was scored, and no
  code of the input was executed.

`make fuzz` is another program: it reads 100,000 mutated configurations, recipes, model files, question files, ledgers,
files of runs and command lines in one process ([tests/README.md](../tests/README.md)). Its properties: what is read
says the numbers of its text, and everything else is one line.
"""
INTERRUPTIONS, ON_RAY, FOLDERS = "Interruptions", "On Ray", "Disks, and files that change"
CANDIDATES, INPUTS, HUB = "Candidates that fail", "Damaged and hostile files", "The hub"
DISTURBED = ("| fault | where | as undisturbed | seen |", "| {fault} | {where} | {well} of {times} | {seen} |")
HEADINGS = {  # table → the columns and how a row fills them
    INTERRUPTIONS: DISTURBED,
    ON_RAY: DISTURBED,
    CANDIDATES: DISTURBED,
    FOLDERS: DISTURBED,
    INPUTS: ("| input | one line | the line |", "| {fault} | {well} of {times} | {seen} |"),
    HUB: ("| the hub | one line | the line |", "| {fault} | {well} of {times} | {seen} |"),
}

COUNTED = re.compile(
    r"(?P<hits>\d+) hit a running search; at most (?P<twice>\d+) chunks paid twice in a search"
    r"(; refused with one line (?P<refused>\d+) times)?(?P<notes>.*)"
)


@dataclass(frozen=True)
class Row:
    """A fault: what, where, how often, how often all was well, and what was seen."""

    fault: str
    where: str
    times: int
    well: int
    seen: str
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """A row, the step and the table that it belongs to, and the run that has measured it."""

    step: str
    table: str
    row: Row
    setting: str


def read(path: Path) -> list[Measured]:
    """The rows of earlier runs; none if the file is missing."""
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return [Measured(**entry | {"row": Row(**_with_tuple(entry["row"]))}) for entry in found]


def _with_tuple(row: dict[str, object]) -> dict[str, object]:
    return row | {"wrong": tuple(row["wrong"])}  # type: ignore[arg-type]


def write(path: Path, rows: Iterable[Measured]) -> None:
    """Keep the rows for later runs."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def merged(before: Iterable[Measured], new: Iterable[Measured], order: Iterable[str]) -> list[Measured]:
    """The rows of both, in the order of the steps; all old rows of a step that was measured again are dropped."""
    new = list(new)
    again, places = {row.step for row in new}, {name: place for place, name in enumerate(order)}
    rows = [*(row for row in before if row.step not in again and row.step in places), *new]
    return sorted(rows, key=lambda row: places[row.step])


def added(runs: Iterable[Iterable[Measured]]) -> list[Measured]:
    """The rows of several runs, with the counts of equal faults added up: parts of one long measurement."""
    found: dict[tuple[str, str, str], Measured] = {}
    for measured in (row for run in runs for row in run):
        before = found.get(key := (measured.step, measured.row.fault, measured.row.where))
        found[key] = replace(measured, row=_sum(before.row, measured.row)) if before else measured
    return list(found.values())


def _sum(one: Row, other: Row) -> Row:
    return Row(
        one.fault, one.where, one.times + other.times, one.well + other.well, _seen(one, other), one.wrong + other.wrong
    )


def _seen(one: Row, other: Row) -> str:
    """What both have seen: hits and refusals are added, of the chunks that were paid twice the larger number counts."""
    first, second = COUNTED.fullmatch(one.seen), COUNTED.fullmatch(other.seen)
    if not first or not second:
        return other.seen
    hits, refused = (int(first[name] or 0) + int(second[name] or 0) for name in ("hits", "refused"))
    twice = max(int(first["twice"]), int(second["twice"]))
    text = f"{hits} hit a running search; at most {twice} chunks paid twice in a search"
    return text + (f"; refused with one line {refused} times" if refused else "") + second["notes"]


def page(rows: Iterable[Measured], steps: Iterable[str] = ()) -> str:
    """The page in Markdown; it names those of the `steps` that have no row yet."""
    rows = list(rows)
    parts = [HEAD, *(f"{setting}\n" for setting in dict.fromkeys(row.setting for row in rows))]
    if missing := [step for step in steps if step not in {row.step for row in rows}]:
        parts.append(f"Not measured yet: `--rows {','.join(missing)}`.\n")
    for table, (heading, line) in HEADINGS.items():
        cells = [line.format(**asdict(found.row)) for found in rows if found.table == table]
        if cells:
            parts += [f"## {table}\n", heading, "|---" * (heading.count("|") - 1) + "|", *cells, ""]
    return "\n".join(parts)
