"""The page: whole, self-contained, escaped, accessible."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import RunError
from evomerge.ledger.ledger import Ledger
from evomerge.recipes import ModelRef, Source, dump_recipe, recipe_of_models
from evomerge.report.budget_section import VARIABLE_SECTION
from evomerge.report.figures import run_figures
from evomerge.report.html import write_report
from evomerge.report.record import read_record
from evomerge.report.reproduce_section import shorten_paths
from evomerge.report.table import claim

from .conftest import CHUNKS, CONFIG, HOSTILE, row

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Collects elements and text, and fails on a tag that is not closed where it should be."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[tuple[str, str]] = []  # type and content
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
        if self._open and self._open[-1] == "script":
            self.scripts.append((self.elements[-1][1].get("type") or "", data))
        else:
            self.text.append(data)

    def all(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        return [
            attrs
            for name, attrs in self.elements
            if name == tag and (not kind or kind in (attrs.get("class") or "").split())
        ]


def charts(page: Page) -> dict[str, Any]:
    """Id of a figure → its specification."""
    names = [str(attrs["id"]) for attrs in page.all("figure", "chart")]
    specs = [json.loads(text) for kind, text in page.scripts if kind == "application/json"]
    return dict(zip(names, specs[: len(names)], strict=True))


def layers_of(spec: Any) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Mark and rows of each layer of a chart."""
    for layer in spec["layer"]:
        data = layer.get("data") or spec["data"]
        yield layer["mark"], data["values"] if "values" in data else spec["datasets"][data["name"]]


@pytest.fixture
def source(run_folder: Path) -> str:
    path = write_report(run_folder)
    assert path == run_folder / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture
def page(source: str) -> Page:
    return Page(source)


def test_it_loads_nothing_and_runs_its_two_scripts_alone(source: str, page: Page) -> None:
    names = {name for _, attrs in page.elements for name in attrs}
    assert not names & {"src", "href", "srcset", "xlink:href", "onclick", "onload"}
    assert not {tag for tag, _ in page.elements} & {"link", "img", "iframe", "object"}
    (policy,) = (str(attrs["content"]) for attrs in page.all("meta") if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    running = [text for kind, text in page.scripts if kind != "application/json"]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running]
    assert len(running) == 2 and re.findall(r"'sha256-([^']+)'", policy) == hashes


def test_names_and_reasons_are_escaped(source: str, page: Page) -> None:
    assert HOSTILE not in source and "<b>model" not in source
    assert HOSTILE in "".join(page.text)


def test_text_of_items_and_names_of_tasks_are_inert(run_folder: Path) -> None:
    """Neither in the page nor inside a specification can they close an element or begin one."""
    mark = "<img src=x onerror=alert(1)>"
    for name in ("trials.jsonl", "result.json", "config.yaml"):
        path = run_folder / name
        path.write_text(re.sub(r"\beasy\b", f"easy{mark}", path.read_text()))
    lines = ["</script></pre>" + mark, "<!-- <script>", "{{constructor}}"]
    (run_folder / "flips.json").write_text(json.dumps({f"easy{mark}/2": lines}))
    source = write_report(run_folder).read_text(encoding="utf-8")
    found = Page(source)
    assert mark not in source and "<!-- <script>" not in source
    assert "</script></pre>" + mark in "".join(found.text) and HOSTILE in str(charts(found))
    assert sum(kind != "application/json" for kind, _ in found.scripts) == 2


def test_it_says_the_claim_and_every_score(run_folder: Path, page: Page) -> None:
    text = "".join(page.text)
    record = read_record(run_folder)
    assert claim(record.result) in text
    assert record.recipe_text in text
    assert "a NaN in <b>model.layers.0</b>" in text and "candidate 2" in text
    assert record.result["fingerprint"] in text
    assert page.text.count("failed") >= 3  # a baseline that has no scores


def test_the_search_chart_has_a_mark_for_each_candidate(page: Page) -> None:
    marks = [(mark, rows) for mark, rows in layers_of(charts(page)["search"]) if mark["type"] == "point"]
    found = {(row["candidate"], row["state"]) for _, rows in marks for row in rows}
    assert found == {(1, "scored"), (2, "failed"), (3, "winner"), (4, "stopped early, estimated")}
    (baselines,) = (rows for mark, rows in layers_of(charts(page)["search"]) if mark.get("strokeDash") == [2, 4])
    assert [row["label"] for row in baselines] == ["base", "uniform"], "the failed one has no line, the best its own"


def test_very_many_candidates_are_a_sample(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page stays small: the charts have a sample, the curve its improvements, and failures some reasons."""
    ledger = Ledger(run_folder / "trials.jsonl", {"config": CONFIG, "chunks": CHUNKS})
    for number in range(30):
        for chunk in ("search/0", "search/1"):
            ledger.append_scores(f"k{number}", chunk, [0.5, number / 40], 0.1, {})
        ledger.append_failure(f"f{number}", "search/0", f"a NaN in layer {number}", {})
    ledger.close()
    for module in ("marks", "search_chart", "front_charts"):
        monkeypatch.setattr(f"evomerge.report.{module}.MOST_POINTS", 4)
    monkeypatch.setattr("evomerge.report.html.MOST_REASONS", 5)
    found = several(run_folder)
    text, specs = "".join(found.text), charts(found)
    for name in ("search", "front-0", "parallel"):
        for _, rows in layers_of(specs[name]):
            assert len({row.get("candidate", row.get("model")) for row in rows}) <= 5
    (line,) = (rows for mark, rows in layers_of(specs["search"]) if mark["type"] == "line")
    assert [row["best"] for row in line] == pytest.approx(
        [0.4, 0.625, *(0.125 + 0.75 * n / 40 for n in range(27, 30)), line[-1]["best"]]
    )
    assert "a sample of at most 4 of each kind" in text and "The first 5 of 31 reasons are listed." in text


def test_its_horizontal_axis_counts_items(page: Page) -> None:
    """c2 failed after one of two chunks, and c4 was stopped after one."""
    (line,) = (rows for mark, rows in layers_of(charts(page)["search"]) if mark["type"] == "line")
    assert [row["items"] for row in line] == [0, 4, 6, 10, 12]
    assert [row["best"] for row in line] == pytest.approx([0.4, 0.4, 0.4, 0.625, 0.625])


def test_every_chart_has_its_values_as_a_table_and_a_description(page: Page) -> None:
    figures = page.all("figure", "chart")
    plots = page.all("div", "plot")
    assert len(figures) == len(plots) == 1 + 3 + 3 + 1, "search, tasks, components, items"
    assert all(plot["role"] == "img" and len(str(plot["aria-label"])) > 20 for plot in plots)
    assert sum("values of" in str(attrs.get("aria-label")) for attrs in page.all("div", "wide")) == len(figures)


def test_every_specification_keeps_the_schema(run_folder: Path) -> None:
    several(run_folder)
    for figure in run_figures(read_record(run_folder)):
        figure.chart.to_dict(validate=True)


def test_coefficients_are_drawn_on_a_scale_around_zero(page: Page) -> None:
    spec = charts(page)["gene-0-0"]
    (mark, rows), *_ = layers_of(spec)
    colour = spec["layer"][0]["encoding"]["color"]["scale"]
    assert mark["type"] == "rect" and colour == {"domain": [-1.0, 1.0], "domainMid": 0, "interpolate": "rgb"}
    cells = {(row["model"], row["layers"]): (row["value"], row["text"]) for row in rows}
    assert cells["math", "0–1"] == (0.125, "+0.12") and cells["math", "2–3"] == (-0.5, "-0.50")


def test_items_that_differ_are_behind_a_click(run_folder: Path, page: Page) -> None:
    assert "not kept the text" in "".join(page.text), "a run without flips.json"
    (run_folder / "flips.json").write_text(json.dumps({"hard/2": ["prompt    │2 + 2 = <b>"]}))
    text = "".join(Page(write_report(run_folder).read_text(encoding="utf-8")).text)
    assert "Won: the winner is better (2 items)" in text and "Lost: the winner is worse (0 items)" in text
    assert "▲ won · hard/2 · winner 1, math 0" in text and "2 + 2 = <b>" in text


def test_no_folder_of_the_machine_is_shown(run_folder: Path) -> None:
    for name in ("recipe.yaml", "config.yaml"):
        path = run_folder / name
        path.write_text(path.read_text().replace("models/base", "/home/me and you/models/base"))
    source = write_report(run_folder).read_text(encoding="utf-8")
    assert "me and you" not in source and "…/models/base" in source


def test_a_long_path_is_shortened_in_the_lines_of_a_recipe(run_folder: Path) -> None:
    """YAML breaks a long line at a space."""
    path = "/home/" + " ".join(["private folder"] * 12) + "/base"
    sources = (Source(ModelRef(path), {"weight": 0.5}), Source(ModelRef("experts/math"), {"weight": 0.5}))
    text = dump_recipe(recipe_of_models("linear", ModelRef(path), sources, {}, out_dtype="float32"))
    assert path not in text
    (run_folder / "recipe.yaml").write_text(text)
    source = write_report(run_folder).read_text(encoding="utf-8")
    assert "/home/" not in source


def test_no_password_is_shown(run_folder: Path) -> None:
    with (run_folder / "config.yaml").open("a") as file:
        file.write("tracker: {name: mlflow, uri: 'https://me:pa55@host/x', token: hunter2}\n")
    source = write_report(run_folder).read_text(encoding="utf-8")
    assert "pa55" not in source and "hunter2" not in source and "https://***@host/x" in source


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/models/base", "…/models/base"),
        ("base+/home/me/adapter", "base+…/me/adapter"),
        ("- model: /home/me/models/base+/home/me/adapters/math", "- model: …/models/base+…/adapters/math"),
        ("cannot read /tmp/a b/c.json, line 3", "cannot read …/a b/c.json, line 3"),
        ("owner/name@main", "owner/name@main"),
        ("./runs/a", "./runs/a"),
        ("https://host/a/b", "https://host/a/b"),
        ("3/4 of {{x}}/y/z", "3/4 of {{x}}/y/z"),
        ("sqlite:////home/me/data/mlflow.db", "…/data/mlflow.db"),
        ("file:///home/me/runs", "…/me/runs"),
        ("file:math.csv", "file:math.csv"),
    ],
)
def test_paths_are_shortened(text: str, shown: str) -> None:
    assert shorten_paths(text) == shown


def test_a_descent_has_a_curve_of_its_losses(run_folder: Path, source: str) -> None:
    assert "<h2>Descent</h2>" not in source
    ledger = Ledger(run_folder / "trials.jsonl", {})
    ledger.append_slope("tried", [9.0, 9.0], None)
    for step in range(1, 21):
        ledger.append_slope(f"step {step}", [1.0 / step, 3.0 / step], [0.5])
    ledger.close()
    found = write_report(run_folder).read_text(encoding="utf-8")
    Page(found)
    spec = charts(Page(found))["descent"]
    assert "20 steps; the loss goes from 2.0000 to 0.1026" in found, "the mean of the last two"
    (_, rows), *_ = layers_of(spec)
    assert len(rows) == 20 and rows[3]["loss"] == pytest.approx(0.5)


def test_figures_and_tables_are_accessible(page: Page) -> None:
    ids = [str(attrs["id"]) for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
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
    assert not [name for name in charts(page) if name.startswith(("front", "parallel"))]
    found = several(run_folder)
    specs = charts(found)
    assert [name for name in specs if name.startswith("front")] == ["front-0"]
    kinds = {row["model"]: row["kind"] for _, rows in layers_of(specs["front-0"]) for row in rows}
    assert kinds["candidate 3"] == "winner" and kinds["math"] == "member of the front" and kinds["base"] == "baseline"
    shares = [row["place"] for _, rows in layers_of(specs["parallel"]) for row in rows]
    assert min(shares) == 0 and max(shares) == 1
    text = "".join(found.text)
    assert "front: math" in text and "normalised hypervolume on holdout is 50%" in text


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
