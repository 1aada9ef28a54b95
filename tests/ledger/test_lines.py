"""What copying and joining make of a ledger: nothing counts twice, nothing foreign counts, and a line says so."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import RunError
from evomerge.ledger.ledger import Ledger
from evomerge.ledger.reading import read_trials
from evomerge.ledger.records import Rechunking
from tests.ledger.test_ledger import HEADER, RECIPE

Lines = list[dict[str, Any]]
DEALT = {"search/a/0": ["toy/0", "toy/2"], "search/a/1": ["toy/1", "toy/3"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with a line of every kind; `b` failed once and then went well."""
    path = tmp_path / "trials.jsonl"
    with contextlib.closing(Ledger(path, HEADER)) as ledger:
        ledger.append_race_limit(2)
        for key in "abc":
            if key == "b":
                ledger.append_failure(key, "search/0", "out of memory", RECIPE)
            answers = {"answers": 2, "truncated": 1}
            ledger.append_scores(key, "search/0", [0.5, 1.0], 0.25, RECIPE, answers)
        ledger.append_failure("d", "search/0", "not finite", RECIPE)
        ledger.append_race(1, "search/0", {"c": 1})
        ledger.append_rechunking(Rechunking(DEALT, {"toy/0": "hard"}), {"search/2": ["toy/4", "toy/5"]})
        ledger.append_scores("a", "search/a/0", [0.5, 0.0], 0.25, RECIPE)
        ledger.append_stop(1, {"evaluations": 3})
        ledger.append_slice_use("holdout", ["a", "b"])
        ledger.append_slice_use("holdout", ["a", "c"])
    return path


def state(path: Path) -> dict[str, Any]:
    """All that a ledger holds, and what whoever only reads it makes of it."""
    with contextlib.closing(Ledger(path, HEADER)) as ledger:
        held = {key: value for key, value in vars(ledger).items() if key not in ("path", "_file")}
    lines = read_trials(path)[1]
    return {**held, "read": sorted(json.dumps({**line, "recipe": None}, sort_keys=True) for line in lines)}


def change(path: Path, changed: Callable[[Lines], Lines]) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in changed(lines)))


def other_seconds(lines: Lines) -> Lines:
    again = [{**line, "seconds": 9.0} for line in lines if "scores" in line]
    return [*lines, *again]


FOREIGN = {"key": "a", "chunk": "search/7", "scores": [1.0], "seconds": 0.5}
DISTURBED: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "all twice in a row": (
        lambda ls: [ls[0], *(x for line in ls[1:] for x in (line, line))],
        "duplicates in lines 3",
    ),
    "joined with itself": (lambda ls: ls + ls, "a second header in line 14; duplicates in lines 15"),
    "joined with an older version's": (lambda ls: [*ls, {**ls[0], "versions": {}}], "a second header in line 14"),
    "scored again elsewhere": (other_seconds, "duplicates in lines 14, 15, 16, 17"),
    "an unknown key": (lambda ls: [*ls[:3], {**ls[3], "note": 1}, *ls[4:]], "unknown key 'note' in line 4"),
    "an unknown key in a second copy": (lambda ls: [*ls, {**ls[2], "note": 1}], "duplicates in line 14"),
    "a chunk of another search": (lambda ls: [*ls, FOREIGN], "chunks of another search in line 14"),
    "a key of nobody": (lambda ls: [*ls, {**FOREIGN, "key": "z"}], "a candidate without a recipe in line 14"),
    "a failure on one": (lambda ls: [*ls, {"key": "a", "chunk": "x", "error": "y"}], "another search in line 14"),
}


@pytest.mark.parametrize("name", DISTURBED)
def test_what_is_passed_over_changes_nothing(name: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    undisturbed = state(path)
    assert not caplog.messages
    changed, said = DISTURBED[name]
    change(path, changed)
    before = path.read_bytes()
    assert state(path) == undisturbed and path.read_bytes() == before
    (message,) = caplog.messages
    assert message.startswith(f"{path}: ignored ") and said in message


@pytest.mark.parametrize(
    "changed",
    [
        lambda ls: [ls[0], *ls[:0:-1][2:], *ls[-2:]],  # looks are counted in their order
        lambda ls: [*ls[1:], ls[0]],
    ],
    ids=["reversed", "the header last"],
)
def test_the_order_of_lines_does_not_count(
    changed: Callable[[Lines], Lines], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = state(path)
    change(path, changed)
    assert state(path) == undisturbed and not caplog.messages


def test_empty_lines_and_other_line_ends_are_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    undisturbed = state(path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n\n"))
    assert state(path) == undisturbed and not caplog.messages


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "other scores": ({"key": "a", "chunk": "search/0", "scores": [0.5, 0.0], "seconds": 0.25}, "contradicts line 3"),
    "too few scores": ({"key": "e", "chunk": "search/1", "scores": [0.5], "seconds": 0.2}, "holds 1 scores for 2"),
    "no numbers": ({"key": "e", "chunk": "search/1", "scores": ["a", "b"], "seconds": 0.2}, "is not a trial"),
    "not finite": ({"key": "e", "chunk": "search/1", "scores": [0.5, float("nan")], "seconds": 0.2}, "is not a trial"),
    "no seconds": ({"key": "e", "chunk": "search/1", "scores": [0.5, 0.5]}, "is not a trial"),
    "no chunk": ({"key": "e", "scores": [0.5, 0.5], "seconds": 0.2}, "is not a trial"),
    "two kinds": ({"key": "e", "chunk": "search/1", "error": "x", "look": "holdout", "keys": []}, "is not a trial"),
    "no kind": ({"hello": "world"}, "is not a trial"),
    "another width": ({"most": 3}, "contradicts line 2"),
    "another deal": ({"deal": {}, "levels": {}}, "contradicts line 9"),
    "another header": ({**HEADER, "schema": 1, "config": {"seed": 2}}, "is the header of another search's ledger"),
    "keys that are none": ({"look": "holdout", "keys": [[]]}, "is not a trial"),
    "a cut of less than nothing": ({"cut": "holdout", "chunks": -1, "budget": None}, "is not a trial"),
    "a cut for a text": ({"cut": "holdout", "chunks": 1, "budget": "x"}, "is not a trial"),
    "a time that is none": ({"elapsed": "long", "command": 1}, "is not a trial"),
    "a race of words": ({"race": {"stopped": "x"}}, "is not a trial"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_count_is_refused_by_its_line(name: str, path: Path) -> None:
    line, why = REFUSED[name]
    own = {"recipe": RECIPE} if "key" in line else {}
    change(path, lambda lines: [*lines, {**line, **own}])
    for read in (lambda: Ledger(path, HEADER), lambda: read_trials(path)):
        with pytest.raises(RunError) as error:
            read()
        assert str(error.value).startswith(f"{path}: line 14 {why}") and "\n" not in str(error.value)


BAD_HEADERS = {
    "none": ({"key": "a", "chunk": "search/0", "error": "x"}, "is no header of a ledger"),
    "chunks": ({"schema": 1, "chunks": {"search/0": "toy/0"}}, "chunks.search/0=toy/0: give a list"),
    "items": ({"schema": 1, "chunks": {"search/0": [0]}}, "chunks.search/0.0=0: give a text"),
    "config": ({"schema": 1, "config": []}, "config=[]: give a mapping"),
    "schema": ({"schema": True}, "schema=true: give a whole number"),
}


@pytest.mark.parametrize(("header", "message"), BAD_HEADERS.values(), ids=list(BAD_HEADERS))
def test_a_header_of_other_types_is_named(header: dict[str, Any], message: str, path: Path) -> None:
    path.write_text(json.dumps(header) + "\n")
    with pytest.raises(RunError) as error:
        read_trials(path)
    assert f"{path}: line 1 is no header of a ledger" in str(error.value) and message in str(error.value)


BAD_LINES = [
    {"deal": {"search/b/0": None}, "levels": {}},
    [["scores", 1]],
    {"stop": {"after": "1", "budget": {}}},
    {"race": {"generation": 1, "first": 3, "stopped": {}}},
    {"deal": {"search/b/0": [1]}, "levels": {}},
    {"screen": {"kept": [1], "rows": []}},
]


@pytest.mark.parametrize("line", BAD_LINES, ids=str)
def test_a_line_of_other_types_is_named(line: Any, path: Path) -> None:
    path.write_text(path.read_text() + json.dumps(line) + "\n")
    with pytest.raises(RunError, match="line 14 is not a"):
        read_trials(path)


def test_a_number_that_a_float_cannot_hold_or_a_repeated_key_is_damage(path: Path) -> None:
    text = path.read_text()
    for line in ('{"price": 1e400, "allowance": 1}', '{"price": 1e-400, "allowance": 1}', '{"most": 3, "most": 4}'):
        path.write_text(f"{text}{line}\n")
        with pytest.raises(RunError, match="line 14 is not JSON"):
            read_trials(path)


def test_a_cut_of_an_unknown_slice_is_passed_over(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(path.read_text() + json.dumps({"cut": "nonsense", "chunks": 1, "budget": None}) + "\n")
    assert not any("cut" in line for line in read_trials(path)[1])
    assert "cuts of another search in line 14" in caplog.text
