"""The page in a headless Chromium: drawn under its own policy, as wide as the screen, accessible, with inert texts.

EVOMERGE_CHROMIUM is the path of the browser, `chromium` on the PATH by default; EVOMERGE_AXE that of axe.min.js, from
the npm package axe-core.
"""

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from evomerge.report import compare_runs, write_report, write_runs_page

from .conftest import write_run

pytestmark = pytest.mark.slow
CHROMIUM = os.environ.get("EVOMERGE_CHROMIUM") or shutil.which("chromium") or ""
AXE = os.environ.get("EVOMERGE_AXE", "")
WIDTHS, SCHEMES = (400, 800, 1400), {"dark": 0, "light": 1}
CLEAN = {"tooltip": "", "overflow": 0, "violations": []}
PAYLOAD = "<img src=x onerror=\"document.title='changed'\">"
CHECK = """
const ready = () => document.documentElement.classList.contains("ready");
const finish = (found) => {
  const text = JSON.stringify(found);
  document.body.innerHTML = "";
  document.body.appendChild(document.createElement("pre")).textContent = "FOUND" + text + "END";
};
const wait = () => ready() ? check() : setTimeout(wait, 50);
const check = () => {
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  const mark = document.querySelector(".live .mark-line path, .live .mark-rect path");
  for (const name of ["pointerover", "pointermove", "mouseover", "mousemove"]) {
    const place = { bubbles: true, clientX: 40, clientY: 40 };
    mark.dispatchEvent(name[0] === "p" ? new PointerEvent(name, place) : new MouseEvent(name, place));
  }
  const tooltip = document.querySelector("#vg-tooltip-element");
  const root = document.documentElement;
  axe.run(document, { resultTypes: ["violations"] }).then((result) => finish({
    tooltip: tooltip ? tooltip.textContent : "",
    overflow: root.scrollWidth - root.clientWidth,
    violations: result.violations
      .map((one) => [one.id, one.nodes.map((node) => node.html.slice(0, 200))])
      .filter(([id, nodes]) => id !== "region" || !nodes.every((html) => html.startsWith('<div id="vg-tooltip'))),
  }));
};
wait();
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("browser") / "run")
    for name in ("trials.jsonl", "result.json", "config.yaml"):
        path = folder / name
        path.write_text(re.sub(r"\beasy\b", "easy<img src=x onerror=alert(1)>", path.read_text()))
    result = json.loads((folder / "result.json").read_text())
    members = [{**result["rows"][-1], "role": "member"}]
    result["front"] = {"members": members, "tasks": list(members[0]["tasks"]), "share_of_box": 0.5}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "flips.json").write_text(json.dumps({"hard/2": [f"</script></pre>{PAYLOAD}", f"<script>{PAYLOAD}"]}))
    write_report(folder)
    return folder


def document(page: Path, width: int, scheme: str = "light") -> str:
    """The page's elements after its scripts have run."""
    if not CHROMIUM:
        pytest.skip("no Chromium; set EVOMERGE_CHROMIUM to its path")
    options = [f"--window-size={width},3000", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"]
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={page.parent / 'profile'}",
    ]
    command += [*options, "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, timeout=120, text=True).stdout


def checked(page: Path, width: int, scheme: str) -> Any:
    """What axe and the browser find in a copy of the page that lets other scripts run."""
    if not AXE:
        pytest.skip("no axe-core; set EVOMERGE_AXE to the path of axe.min.js")
    source = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text(encoding="utf-8"))
    scripts = f"<script>{Path(AXE).read_text(encoding='utf-8')}</script><script>{CHECK}</script>"
    copy = page.with_name("checked.html")
    copy.write_text(source.replace("</body>\n</html>", f"{scripts}</body></html>"), encoding="utf-8")
    found = re.search(r"FOUND(.*)END", document(copy, width, scheme), re.DOTALL)
    assert found, "the check did not end"
    return json.loads(unescape(found[1]))


def test_its_policy_lets_every_chart_be_drawn_and_nothing_else_run(run: Path) -> None:
    source = document(run / "report.html", 800)
    figures = re.findall(r'<figure class="chart[^"]*"', source)
    assert len(figures) == 10 and set(figures) == {'<figure class="chart drawn"'}
    assert source.count('class="live vega-embed') == len(figures)
    outside = re.sub(r"<script.*?</script>", "", source, flags=re.DOTALL)
    assert "<title>changed" not in source and "<img" not in outside and "&lt;img src=x" in outside


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_the_screen_and_axe_finds_nothing(run: Path, width: int, scheme: str) -> None:
    found = checked(run / "report.html", width, scheme)
    assert {**found, "tooltip": ""} == CLEAN
    assert "model" in found["tooltip"] and "0.6000" in found["tooltip"], "the values of the winner's bar"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_of_several_runs_too(run: Path, tmp_path: Path, scheme: str) -> None:
    page = write_runs_page(compare_runs([run, run]), tmp_path / "runs.html")
    assert {**checked(page, 400, scheme), "tooltip": ""} == CLEAN
