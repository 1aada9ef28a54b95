"""What the terminal says of a result, word by word."""

import copy
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from evomerge.report.table import (
    alternative_rows,
    claim,
    comparison_table,
    format_difference,
    format_p,
    notes,
    result_table,
)

from .conftest import row


@pytest.fixture
def result(run_folder: Path) -> dict[str, Any]:
    return dict(json.loads((run_folder / "result.json").read_text()))


def shown(table: Table, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def changed(result: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(result), **changes}


def test_the_claim_names_baseline_difference_interval_and_corrected_p(result: dict[str, Any]) -> None:
    text = claim(result)
    assert text == (
        "On holdout the winner is better than the best baseline (math): +0.2000 [+0.1000, +0.3000], 95% interval, "
        "p 0.0300 (McNemar, corrected for 3 baselines)"
    )


def test_a_tie_is_called_a_tie(result: dict[str, Any]) -> None:
    assert "is a tie with the best baseline (math)" in claim(changed(result, verdict="tie"))
    assert "A tie with uniform too: these differences may be chance" in list(notes(result))
    table = shown(comparison_table(result))
    assert [line.split("│")[5].strip() for line in table.splitlines() if "│" in line] == ["better", "better", "tie"]


def test_a_baseline_that_wins_is_said_first(result: dict[str, Any]) -> None:
    rows = [*result["rows"][:-1], row("math", 0.4, "b1", "winner")]
    text = claim(changed(result, rows=rows, winner={"label": "math", "key": "b1"}))
    assert text == "Nothing better was found: the winner is the baseline 'math' itself"


@pytest.mark.parametrize(
    ("label", "kind", "words"),
    [
        ("base", "base", "the base itself"),
        ("intent", "expert", "the expert 'intent' itself"),
        ("uniform", "uniform", "the uniform average itself"),
        ("default", "default", "the textbook default of the method itself"),
        ("ties", "baseline", "the baseline 'ties' itself"),
    ],
)
def test_the_claim_begins_with_the_baseline_that_the_winner_is(
    result: dict[str, Any], label: str, kind: str, words: str
) -> None:
    """Also where another baseline is the best, as the verdict is about that one."""
    text = claim(changed(result, winner_is=[{"label": label, "kind": kind}], verdict="tie"))
    assert text.startswith(f"Nothing better was found: the winner is {words}. On holdout the winner is a tie with")
    alone = claim(changed(result, winner_is=[{"label": label, "kind": kind}], best_baseline=label))
    assert alone == f"Nothing better was found: the winner is {words}"


def test_a_new_merge_is_no_baseline(result: dict[str, Any]) -> None:
    assert "Nothing better" not in claim(changed(result, winner_is=[])) + claim(result)


def test_another_look_at_holdout_is_told(result: dict[str, Any]) -> None:
    twice = changed(result, counts={**result["counts"], "holdout_looks": 2})
    assert claim(twice).endswith("; the holdout was used 2 times, and a choice made after the first may overfit it")


def test_slices_that_ended_early_are_told(result: dict[str, Any]) -> None:
    found = list(notes(changed(result, shortened={"holdout": {"items": 3, "of": 9}, "cloud": "left out"})))
    assert "For lack of time only 3 of 9 items of holdout were used" in found
    assert "Left out for lack of time: cloud" in found


def test_the_gap_is_told_beside_that_of_the_baselines(result: dict[str, Any]) -> None:
    line = (
        "From search to holdout the winner's score changes by -0.0500; "
        "the mean score of the baselines, which were not selected, changes by -0.0100"
    )
    assert line in list(notes(result))
    alone = changed(result, gap={"winner": 0.05, "baselines": None})
    assert "From search to holdout the winner's score changes by -0.0500" in list(notes(alone))
    assert not [n for n in notes(changed(result, gap={"winner": None, "baselines": 0.1})) if "search to holdout" in n]


def test_floors_are_told_kept_or_broken_on_holdout(result: dict[str, Any]) -> None:
    found = list(notes(changed(result, floors={"easy": 0.6, "hard": 0.31})))
    assert "On holdout the winner keeps the floor: easy 0.6000 of 0.6000" in found
    assert "On holdout the winner breaks the floor: hard 0.3000 of 0.3100" in found
    assert "the best baseline (math)" in claim(changed(result, floors={"hard": 0.9}))
    assert "the best baseline that keeps the floors (math)" in claim(changed(result, floors={"hard": 0.2}))
    both = list(notes(changed(result, floors={"easy": 0.5, "hard": 0.2})))
    assert "On holdout the winner keeps the floors: easy 0.6000 of 0.5000, hard 0.3000 of 0.2000" in both


def test_the_optimum_is_told_in_one_line(result: dict[str, Any]) -> None:
    span = {"low": -0.02, "high": 0.01, "level": 0.95}
    found = {"radius": 0.05, "points": 6, "difference": -0.005, "interval": span, "worst": -0.03, "best": 0.01}
    (line,) = (n for n in notes(changed(result, sensitivity={**found, "flat": True})) if "optimum" in n)
    assert line == (
        "The optimum is flat: 6 points at radius 0.05 are within ±0.0300 of the winner on select; "
        "their mean difference is -0.0050 [-0.0200, +0.0100]"
    )
    assert any("is not flat" in n for n in notes(changed(result, sensitivity={**found, "flat": False})))


def test_what_else_may_be_built_has_rows_after_the_winner(result: dict[str, Any]) -> None:
    span = {"difference": -0.01, "interval": {"low": -0.02, "high": 0.0, "level": 0.95}}
    simpler = {"steps": ["without law"], "tried": 3, "row": row("simpler", 0.55, "s", "simpler"), **span}
    front = {"members": [row("3/4", 0.5, "m", "member")], "tasks": ["easy", "hard"], "share_of_box": 0.25}
    more = changed(result, simpler=simpler, front=front)
    assert [found["label"] for found in alternative_rows(more)] == ["simpler", "3/4"]
    labels = [line.split("│")[1].strip() for line in shown(result_table(more)).splitlines() if "│" in line]
    assert labels[-3:] == ["winner", "simpler", "front: 3/4"]
    text = list(notes(more))
    assert (
        "A simpler recipe is as good within noise on select, -0.0100 [-0.0200, +0.0000] on holdout: without law" in text
    )
    assert "The front has 1 member; its normalised hypervolume on holdout is 25%" in text


def test_a_search_for_simplifications_that_found_none_says_so(result: dict[str, Any]) -> None:
    nothing = {"steps": [], "tried": 4, "row": None}
    assert "None of 4 simplifications keeps the score on select" in list(notes(changed(result, simpler=nothing)))
    failed = {"steps": ["without law"], "tried": 4, "row": None}
    assert any("could not be scored on holdout: without law" in n for n in notes(changed(result, simpler=failed)))
    assert alternative_rows(changed(result, simpler=failed)) == []


def test_tables_fit_eighty_columns(result: dict[str, Any]) -> None:
    lines = shown(comparison_table(result), 80).splitlines()
    rows = [line for line in lines if line.startswith("│")]
    assert len(rows) == 3 and max(map(len, lines)) <= 80


def test_numbers() -> None:
    assert (format_p(0.04321), format_p(1.0), format_p(0.0001), format_p(0.00009)) == (
        "0.0432",
        "1.0000",
        "0.0001",
        "< 0.0001",
    )
    assert (
        format_difference({"difference": 0.1, "interval": {"low": -0.2, "high": 0.3}}) == "+0.1000 [-0.2000, +0.3000]"
    )


def test_answers_cut_off_are_told_with_a_warning(result: dict[str, Any]) -> None:
    assert not [line for line in notes(result) if "answers" in line]
    found = copy.deepcopy(result)
    for place, cut in ((1, 30), (-1, 3)):
        found["rows"][place]["answers"] = {"answers": 60, "truncated": cut, "empty": 6, "unparsable": 0}
    (line,) = [line for line in notes(found) if "answers" in line]
    assert line == (
        "Of 60 answers generated on holdout: winner 5% truncated, 10% empty, 0% unparsable; "
        "math 50% truncated, 10% empty, 0% unparsable"
    )
    (warning,) = [line for line in notes({**found, "truncated_more": ["math"]}) if line.startswith("Warning")]
    assert warning.startswith("Warning: math reached the token limit significantly more often than the winner")
