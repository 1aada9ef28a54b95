"""Where the items and the time of a run went, on which machine; all that may differ between two equal searches."""

from collections.abc import Mapping

from evomerge.report.figure import Figure, figure_html
from evomerge.report.html_elements import Grid, fact_table, format_value, section
from evomerge.report.marks import Row, bar_axis, base, layered, names_axis, tooltips
from evomerge.report.record import Record

VARIABLE_SECTION = "moment"  # the id of the only section in which two runs of the same search may differ
VARIABLE_COUNTS = ("items_scored", "items_scored_this_time")  # depend on interruptions of the run and on its workers
NOTE = "These values depend on time and machine. The rest of the page does not, however often the run was resumed."
SAVED = "saved by stopping early"
BAR, NARROW = 26, 420


def budget_section(record: Record) -> str:
    """The items and seconds of each step as bars, then counts, machine and versions."""
    result = record.result
    seconds = {name: value for name, value in result["seconds"].items() if name != "phases"}
    facts = {
        **{name.replace("_", " "): result["counts"][name] for name in VARIABLE_COUNTS},
        **{f"seconds, {name.replace('_', ' ')}": value for name, value in seconds.items()},
        **{name.replace("_", " "): format_value(value) for name, value in result["machine"].items()},
        "versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    }
    figures = "".join(map(figure_html, budget_figures(record)))
    return section(
        "Time and items", NOTE, f'<div class="multiples">{figures}</div>{fact_table(facts)}', VARIABLE_SECTION
    )


def budget_figures(record: Record) -> list[Figure]:
    """Items and, where the result has them, seconds of each step."""
    phases = record.result["seconds"].get("phases", {})
    figures = [_bars("items", "Items scored", {**record.items, **_saved(record)}, "items")]
    if phases:
        figures.append(_bars("seconds", "Seconds of the last command", phases, "seconds"))
    return figures


def _saved(record: Record) -> dict[str, int]:
    """The items of the search slice that candidates were not scored on because they were stopped."""
    whole = max((candidate.items for candidate in record.candidates if candidate.complete), default=0)
    saved = sum(whole - c.items for c in record.candidates if not c.complete and c.error is None)
    return {SAVED: saved} if saved > 0 else {}


def _bars(name: str, title: str, values: Mapping[str, float], unit: str) -> Figure:
    """A bar for each step; the items that were saved have a hollow one."""
    rows: list[Row] = [{"step": step, "value": value, "text": f"{value:,.0f}"} for step, value in values.items()]
    top = max(values.values(), default=0) or 1
    x, y = bar_axis("value", unit, 0, top), names_axis("step", list(values))
    tips = tooltips({"step": "step", "text": unit})
    spent, saved = ([row for row in rows if (row["step"] == SAVED) == kind] for kind in (False, True))
    layers = [
        base(spent).mark_bar(style="winner", height=BAR - 10),
        base(saved).mark_bar(style="rule", height=BAR - 10),
    ]
    bars = [layer.encode(x=x, y=y, tooltip=tips) for layer in layers]
    text = base(rows).mark_text(style="ink", align="left", dx=5).encode(x=x, y=y, text="text:N")
    words = (f"{row['step']} {row['text']}" for row in rows)
    description = f"{title}: {', '.join(words)}."
    grid = Grid(("step", unit), [(str(row["step"]), str(row["text"])) for row in rows])
    chart = layered([*bars, text], BAR * len(rows))
    return Figure(f"budget-{name}", title, description, chart, grid, width=NARROW)
