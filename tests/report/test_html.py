"""The page: whole, self-contained, escaped, accessible."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evomerge.errors import RunError
from evomerge.ledger.ledger import Ledger
from evomerge.report.html import VARIABLE_SECTION, write_report
from evomerge.report.record import read_record
from evomerge.report.table import claim

from .conftest import HOSTILE, row

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Collects elements and text, and fails on a tag that is not closed where it should be."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        return [
            attrs
            for name, attrs in self.elements
            if name == tag and (not kind or kind in (attrs.get("class") or "").split())
        ]


@pytest.fixture
def source(run_folder: Path) -> str:
    path = write_report(run_folder)
    assert path == run_folder / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture
def page(source: str) -> Page:
    return Page(source)


def test_it_loads_nothing(source: str, page: Page) -> None:
    names = {name for _, attrs in page.elements for name in attrs}
    assert not names & {"src", "href", "srcset", "xlink:href", "onclick", "onload"}
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"https?:|@import|url\(", source)


def test_names_and_reasons_are_escaped(source: str, page: Page) -> None:
    assert "<script>" not in source and "<b>" not in source
    assert HOSTILE in "".join(page.text)


def test_it_says_the_claim_and_every_score(run_folder: Path, page: Page) -> None:
    text = "".join(page.text)
    record = read_record(run_folder)
    assert claim(record.result) in text
    assert record.recipe_text in text
    assert "a NaN in <b>model.layers.0</b>" in text and "candidate 2" in text
    assert record.result["fingerprint"] in text
    assert page.text.count("failed") >= 3  # a baseline that has no scores


def test_the_search_curve_has_a_mark_for_each_candidate(page: Page) -> None:
    assert len(page.all("circle", "candidate")) == 2 and len(page.all("circle", "dropped")) == 1
    assert len(page.all("circle", "winner")) == 1
    assert len(page.all("path", "failed")) == 1
    assert len(page.all("line", "baseline")) == 3  # the failed one has no line


def test_a_descent_has_a_curve_of_its_losses(run_folder: Path, source: str) -> None:
    assert "<h2>Descent</h2>" not in source
    ledger = Ledger(run_folder / "trials.jsonl", {})
    ledger.append_slope("tried", [9.0, 9.0], None)
    for step in range(1, 21):
        ledger.append_slope(f"step {step}", [1.0 / step, 3.0 / step], [0.5])
    ledger.close()
    found = write_report(run_folder).read_text(encoding="utf-8")
    Page(found)
    curve = found[found.index("<h2>Descent</h2>") :].partition("<h2>Search</h2>")[0]
    assert "20 steps; the loss goes from 2.0000 to 0.1026" in curve, "the mean of the last two"
    assert curve.count("<circle") == 20 and "step 4: 0.5000" in curve


def test_figures_and_tables_are_accessible(page: Page) -> None:
    ids = [str(attrs["id"]) for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    figures = page.all("svg")
    assert len(figures) == 1 + 3 + 1
    for figure in figures:
        assert figure["role"] == "img" and set(str(figure["aria-labelledby"]).split()) <= set(ids)
    assert all(head.get("scope") in ("row", "col") for head in page.all("th"))
    assert dict(page.elements)["html"] == {"lang": "en"}


def test_the_same_run_gives_the_same_page(run_folder: Path, source: str) -> None:
    assert write_report(run_folder).read_text(encoding="utf-8") == source


def test_an_unfinished_run_has_no_report(run_folder: Path) -> None:
    (run_folder / "result.json").unlink()
    with pytest.raises(RunError, match=r"result\.json"):
        write_report(run_folder)
    assert not (run_folder / "report.html").exists()


def test_every_baseline_is_compared(page: Page, source: str) -> None:
    for label, verdict in (("base", "better"), ("math", "better"), ("uniform", "tie")):
        assert f'<tr class="{verdict}"><th scope="row">{label}</th>' in source
    text = "".join(page.text)
    assert "p, corrected" in text and "A tie with uniform too" in text and "From search to holdout" in text


def several(folder: Path) -> Page:
    """The page of the same run with a front of two members."""
    result = json.loads((folder / "result.json").read_text())
    members = [row("1/2", 0.6, "c3", "member"), row("math", 0.4, "b1", "member")]
    result["front"] = {"members": members, "tasks": ["easy", "hard"], "share_of_box": 0.5}
    (folder / "result.json").write_text(json.dumps(result))
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_a_front_is_drawn_for_each_pair_of_tasks(run_folder: Path, page: Page) -> None:
    assert not [attrs for attrs in page.all("svg") if "front" in str(attrs["aria-labelledby"])]
    found = several(run_folder)
    figures = [attrs for attrs in found.all("svg") if "front" in str(attrs["aria-labelledby"])]
    assert len(figures) == 1
    assert len(found.all("circle", "baseline")) == 4, "the baselines"
    assert len(found.all("circle", "winner")) == 2, "in the search curve and in the front"
    width, height = (float(side) for side in str(figures[0]["viewbox"]).split()[2:])
    places = [(float(str(c["cx"])), float(str(c["cy"]))) for c in found.all("circle", "baseline")]
    assert all(0 < x < width and 0 < y < height for x, y in places) and len(set(places)) == 1, "they score alike"
    text = "".join(found.text)
    assert "front: math" in text and "normalised hypervolume on holdout is 50%" in text
    names = {name for _, attrs in found.elements for name in attrs}
    assert not names & {"src", "href", "srcset", "xlink:href"}


@pytest.mark.parametrize(
    ("floor", "broken", "best"), [(0.4, [True, False, False], 0.625), (0.9, [True, True, False], None)]
)
def test_points_that_break_a_floor_never_lead(
    run_folder: Path, floor: float, broken: list[bool], best: float | None
) -> None:
    """The last point keeps both floors on the half of the items that it was scored on, which does not count."""
    lines = (run_folder / "trials.jsonl").read_text().splitlines()
    header = json.loads(lines[0])
    header["config"]["objective"] = {"keep": {"hard": floor}}
    (run_folder / "trials.jsonl").write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    record = read_record(run_folder)
    assert [c.fitness.violation > 0 for c in record.candidates if c.fitness.values] == broken
    found = record.best_so_far()
    assert math.isnan(found[0]), "the baselines break it too"
    assert math.isnan(found[-1]) if best is None else found[-1] == pytest.approx(best)
    Page(write_report(run_folder).read_text(encoding="utf-8"))


def test_generated_answers_have_a_table_where_there_are_any(run_folder: Path, page: Page) -> None:
    assert "Generated answers" not in "".join(page.text)
    result = json.loads((run_folder / "result.json").read_text())
    result["rows"][0]["answers"] = {"answers": 40, "truncated": 10, "empty": 1, "unparsable": 4}
    (run_folder / "result.json").write_text(json.dumps(result))
    text = "".join(Page(write_report(run_folder).read_text(encoding="utf-8")).text)
    assert "Generated answers" in text and "25.0%" in text and "2.5%" in text and "10.0%" in text


def test_what_depends_on_the_moment_stands_in_one_place(run_folder: Path, source: str) -> None:
    result = json.loads((run_folder / "result.json").read_text())
    result["counts"] |= {"items_scored": 77777, "items_scored_this_time": 0}
    result["seconds"] = {"this_time": 9.5, "scoring_in_all": 8.25}
    result |= {"versions": {"python": "3.99"}, "machine": {"platform": "elsewhere", "devices": ["one"]}}
    (run_folder / "result.json").write_text(json.dumps(result))
    again = write_report(run_folder).read_text(encoding="utf-8")
    (before, moment), (other, later) = (text.split(f'<section id="{VARIABLE_SECTION}">') for text in (source, again))
    assert before == other and moment != later
    assert moment.partition("</section>")[2] == later.partition("</section>")[2]


def test_points_are_numbered_as_asked_whoever_was_scored_first(run_folder: Path) -> None:
    result = json.loads((run_folder / "result.json").read_text())
    (run_folder / "result.json").write_text(json.dumps({**result, "asked": ["b0", "c4", "c3", "c2", "c1"]}))
    assert [(point.number, point.key) for point in read_record(run_folder).candidates] == [
        (1, "c4"),
        (2, "c3"),
        (3, "c2"),
        (4, "c1"),
    ]
