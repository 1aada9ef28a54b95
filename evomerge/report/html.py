"""report.html: a finished run on one page that needs no network and no other file."""

from collections.abc import Callable, Sequence
from html import escape
from itertools import islice
from pathlib import Path

from evomerge.atomic import write_atomically
from evomerge.report.budget_section import budget_section
from evomerge.report.coefficient_charts import KEYS, gene_figures
from evomerge.report.coefficients import Block, coefficient_blocks, constant_settings
from evomerge.report.comparisons import answer_section, comparison_section
from evomerge.report.figure import Figure, figure_html, legend_html
from evomerge.report.flips_section import flips_section
from evomerge.report.front_charts import front_section
from evomerge.report.holdout_charts import task_figures
from evomerge.report.html_elements import fact_table, format_value, scrollable, section
from evomerge.report.page import page
from evomerge.report.record import BEST_BASELINE, Record, is_missing, read_record
from evomerge.report.reproduce_section import reproduce_section, shorten_paths
from evomerge.report.screening_section import screening_section
from evomerge.report.search_chart import descent_figure, search_figure
from evomerge.report.sensitivity_charts import sensitivity_section
from evomerge.report.table import alternative_rows, claim, format_length, format_score, notes, row_name
from evomerge.run_files import refuse_misfits
from evomerge.scoring import SLICES

REPORT = "report.html"
MOST_REASONS = 50  # of failures; a reason may hold a number that differs each time
UNPROPOSED = {  # points that the optimizer has not proposed, by their labels
    "centre": "centre: the mean of the optimizer's distribution",
    "model": "model: the best point of a surrogate model of all scores",
}
FOOTER = "Made by evomerge from config.yaml, trials.jsonl, recipe.yaml and result.json of this run."


def write_report(folder: Path) -> Path:
    """Write report.html into a run's folder from the files there; RunError if the run is not finished."""
    path = folder / REPORT
    record = read_record(folder)
    with refuse_misfits(folder):
        text = run_page(record)
    write_atomically(path, text)
    return path


def run_page(record: Record) -> str:
    """The HTML document of a run."""
    sections: tuple[Callable[[Record], str], ...] = (
        _header,
        _result,
        comparison_section,
        _tasks,
        answer_section,
        screening_section,
        _descent,
        _search,
        front_section,
        _coefficients,
        sensitivity_section,
        flips_section,
        _failures,
        reproduce_section,
        budget_section,
    )
    return page(record.name, "\n".join(filter(None, (part(record) for part in sections))), FOOTER)


def _header(record: Record) -> str:
    result = record.result
    experts = ", ".join(record.experts)
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in _tiles(record)
    )
    return f"""<header>
<p class="over">evomerge · {escape(record.recipe.method)} of {escape(experts)}</p>
<h1>{escape(record.name)}</h1>
<p class="claim {escape(result["verdict"])}">{escape(shorten_paths(claim(result)))}</p>
{"".join(f"<p class='note'>{escape(shorten_paths(line))}.</p>" for line in notes(result))}
<dl class="tiles">{cells}</dl>
</header>"""


def _tiles(record: Record) -> tuple[tuple[str, str, str], ...]:
    """The key figures of the run: name, value and a note."""
    result, counts, interval = record.result, record.result["counts"], record.result["interval"]
    baseline = record.best_baseline
    bounds = f"{interval['level']:.0%}: {interval['low']:+.4f} … {interval['high']:+.4f}"
    stopped = f"{counts['stopped_early']} stopped early, " if counts.get("stopped_early") else ""
    return (
        (
            "winner on holdout",
            format_score(record.winner["scores"]["holdout"]),
            UNPROPOSED.get(result["winner"]["label"], f"candidate {result['winner']['label']}"),
        ),
        ("best baseline", format_score(baseline["scores"]["holdout"]), baseline["label"]),
        ("difference", f"{result['difference']:+.4f}", bounds),
        ("candidates", f"{counts['candidates']}", f"baselines among them; {stopped}{counts['failed']} failed"),
    )


def _result(record: Record) -> str:
    tasks, lengths = list(record.winner["tasks"]), list(record.winner.get("lengths", ()))
    rows = []
    shown_rows = [*record.result["rows"], *alternative_rows(record.result)]
    columns = [[row["scores"][name] for row in shown_rows] for name in SLICES]
    columns += [[row["tasks"].get(task) for row in shown_rows] for task in tasks]
    for place, row in enumerate(shown_rows):
        best = row["role"] == "baseline" and row["label"] == record.result["best_baseline"]
        kind = "winner" if row["role"] == "winner" else BEST_BASELINE if best else ""
        cells = "".join(_score(column, place, "task" if i >= len(SLICES) else "") for i, column in enumerate(columns))
        tokens = (format_length(row.get("lengths", {}).get(name)) for name in lengths)
        cells += "".join(f'<td class="task">{escape(count)}</td>' for count in tokens)
        rows.append(f'<tr class="{kind}"><th scope="row">{escape(row_name(row))}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("model", *SLICES))
    heads += "".join(f'<th scope="col" class="task">{escape(name)}</th>' for name in (*tasks, *lengths))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    note = (
        "The search used only the search slice, the winner was selected on select, and the claim was measured on "
        "holdout. The columns after holdout are its tasks. The best score of each column is in bold."
        + " The last columns are mean lengths of answers in tokens."
        * bool(lengths)
    )
    return section("Result", note, scrollable(table, "result table"))


def _score(column: Sequence[float | None], place: int, kind: str) -> str:
    """The cell of one row; the best score of the column is highlighted."""
    value = column[place]
    top = max((v for v in column if v is not None and not is_missing(v)), default=None)
    best = " best-of" if value is not None and value == top else ""
    return f'<td class="{kind}{best}">{format_score(value)}</td>'


def _descent(record: Record) -> str:
    if not record.descent:
        return ""
    note = "The mean loss of the items of each step, on the search slice. Lower is better."
    return section("Descent", note, figure_html(descent_figure(record.descent)))


def _search(record: Record) -> str:
    note = (
        "Scores on the search slice, over the items that candidates were scored on; those of the baselines are not "
        "counted. A race stops candidates before they are scored on the whole slice."
    )
    return section("Search", note, figure_html(search_figure(record)))


def _tasks(record: Record) -> str:
    parts = "".join(map(figure_html, task_figures(record)))
    note = (
        "The winner, the best baseline and each expert, on items that neither search nor selection used, with 95% "
        "bootstrap intervals of each score. Intervals that overlap may still differ significantly: the test is paired."
    )
    return section("Holdout, task by task", note, f'<div class="multiples">{parts}</div>')


def _coefficients(record: Record) -> str:
    parts = []
    for figures in coefficient_figures(record).values():
        parts += [*map(figure_html, figures), legend_html(KEYS)]
    settings = constant_settings(record.recipe)
    if constants := ", ".join(f"{name} = {format_value(value)}" for name, value in settings.items()):
        parts.append(f'<p class="note">The same for every model and layer: {escape(constants)}.</p>')
    note = "The recipe's values for each model and layer, in colours around 0. All charts of a gene have one scale."
    return section("The winner’s coefficients", note, "".join(parts))


def coefficient_figures(record: Record) -> dict[str, list[Figure]]:
    """Gene → its heat maps."""
    blocks = coefficient_blocks(record.recipe, record.result.get("layers"), record.config)
    by_gene: dict[str, list[Block]] = {}
    for block in blocks:
        by_gene.setdefault(block.gene, []).append(block)
    return {gene: gene_figures(gene, found, f"gene-{i}") for i, (gene, found) in enumerate(by_gene.items())}


def _failures(record: Record) -> str:
    failed = record.failures()
    if not failed:
        return ""
    reasons: dict[str, list[str]] = {}
    for number, reason in failed.items():
        reasons.setdefault(shorten_paths(reason), []).append(str(number))
    note = f"{len(failed)} of {len(record.candidates)} candidates could not be built or scored; they rank last."
    facts = {_list_candidates(numbers): reason for reason, numbers in islice(reasons.items(), MOST_REASONS)}
    note += f" The first {MOST_REASONS} of {len(reasons)} reasons are listed." * (len(reasons) > MOST_REASONS)
    return section("Failures", note, fact_table(facts))


def _list_candidates(numbers: Sequence[str], limit: int = 10) -> str:
    more = f" and {len(numbers) - limit} more" if len(numbers) > limit else ""
    return f"candidate{'s' * (len(numbers) > 1)} {', '.join(numbers[:limit])}{more}"
