"""report.html: a finished run on one page that needs no network, no other file and no script."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from evomerge.atomic import write_atomically
from evomerge.report.charts import heat_map, search_curve, task_bars
from evomerge.report.coefficients import Block, coefficient_blocks, constant_settings
from evomerge.report.comparisons import answer_section, comparison_section, front_section
from evomerge.report.descent_chart import loss_curve
from evomerge.report.html_elements import details, fact_table, format_value, scrollable, section
from evomerge.report.record import BEST_BASELINE, Record, is_missing, read_record
from evomerge.report.screening_section import screening_section
from evomerge.report.table import alternative_rows, claim, format_length, format_score, notes, row_name
from evomerge.run_files import refuse_misfits
from evomerge.scoring import SLICES

REPORT = "report.html"
VARIABLE_SECTION = "moment"  # the id of the only section in which two runs of the same search may differ
VARIABLE_COUNTS = ("items_scored", "items_scored_this_time")  # depend on interruptions of the run and on its workers
# The browser enforces that the page loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write_report(folder: Path) -> Path:
    """Write report.html into a run's folder from the files there; RunError if the run is not finished."""
    path = folder / REPORT
    record = read_record(folder)
    with refuse_misfits(folder):
        text = page(record)
    write_atomically(path, text)
    return path


def page(record: Record) -> str:
    """The HTML document."""
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    sections = (
        _header,
        _result,
        comparison_section,
        screening_section,
        answer_section,
        _descent,
        _search,
        front_section,
        _tasks,
        _coefficients,
    )
    body = "\n".join(part(record) for part in (*sections, _failures, _recipe, _provenance, _circumstances))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(record.name)} · evomerge</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
<footer>Made by evomerge from config.yaml, trials.jsonl, recipe.yaml and result.json of this run.</footer>
</main>
</body>
</html>
"""


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
<p class="claim {escape(result["verdict"])}">{escape(claim(result))}</p>
{"".join(f"<p class='note'>{escape(line)}.</p>" for line in notes(result))}
<dl class="tiles">{cells}</dl>
</header>"""


def _tiles(record: Record) -> tuple[tuple[str, str, str], ...]:
    """The key figures of the run: name, value and a note."""
    result, counts, interval = record.result, record.result["counts"], record.result["interval"]
    baseline = next(row for row in record.baselines if row["label"] == result["best_baseline"])
    bounds = f"{interval['level']:.0%}: {interval['low']:+.4f} … {interval['high']:+.4f}"
    stopped = f"{counts['stopped_early']} stopped early, " if counts.get("stopped_early") else ""
    return (
        (
            "winner on holdout",
            format_score(record.winner["scores"]["holdout"]),
            f"candidate {result['winner']['label']}",
        ),
        ("best baseline", format_score(baseline["scores"]["holdout"]), baseline["label"]),
        ("difference", f"{result['difference']:+.4f}", bounds),
        ("candidates", f"{counts['candidates']}", f"{stopped}{counts['failed']} failed"),
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
    legend = (
        '<span><i class="key "></i>items of a step</span><span><i class="key line"></i>mean of the last steps</span>'
    )
    figure = f"<figure>{scrollable(loss_curve(record.descent), 'loss curve')}<figcaption>{legend}</figcaption></figure>"
    return section("Descent", "The mean loss of the items of each step, on the search slice. Lower is better.", figure)


def _search(record: Record) -> str:
    keys = [("", "candidate"), ("line", "best so far"), ("winner", "winner, selected on select")]
    keys += [("baseline", "best baseline on holdout")]
    if any(not candidate.complete for candidate in record.candidates):
        keys.append(("dropped", "stopped early: score estimated from the items scored"))
    if record.failures():
        keys.append(("failed", "failed"))
    legend = "".join(f'<span><i class="key {kind}">{"×" * (kind == "failed")}</i>{name}</span>' for kind, name in keys)
    figure = f"<figure>{scrollable(search_curve(record), 'search curve')}<figcaption>{legend}</figcaption></figure>"
    return section("Search", "Scores on the search slice. The baselines are dashed.", figure)


def _tasks(record: Record) -> str:
    models = record.compared_models()
    parts = [
        f"<figure><h3>{escape(task)}</h3>{task_bars(task, models, f'task-{place}')}</figure>"
        for place, task in enumerate(models[0].scores)
    ]
    note = "The winner, the best baseline and each expert, on items that neither search nor selection used."
    return section("Holdout, task by task", note, f'<div class="multiples">{"".join(parts)}</div>')


def _coefficients(record: Record) -> str:
    blocks = coefficient_blocks(record.recipe, record.result.get("layers"), record.config)
    parts = []
    for place, gene in enumerate(dict.fromkeys(block.gene for block in blocks)):
        gene_blocks = [block for block in blocks if block.gene == gene]
        chart = scrollable(heat_map(gene, gene_blocks, f"gene-{place}"), f"heat map of {gene}")
        tables = "".join(scrollable(_block_table(block), block.component) for block in gene_blocks)
        parts += [f"<h3>{escape(gene)}</h3>{chart}", details("Values as a table", tables)]
    settings = constant_settings(record.recipe)
    if constants := ", ".join(f"{name} = {format_value(value)}" for name, value in settings.items()):
        parts.append(f'<p class="note">The same for every model and layer: {escape(constants)}.</p>')
    return section("The winner’s coefficients", "The recipe's values for each model and layer.", "".join(parts))


def _block_table(block: Block) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in (block.component, *block.columns))
    rows = "".join(
        f'<tr><th scope="row">{escape(owner)}</th>'
        + "".join(f"<td>{'–' if value is None else f'{value:.4f}'}</td>" for value in values)
        + "</tr>"
        for owner, values in block.rows.items()
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _failures(record: Record) -> str:
    failed = record.failures()
    if not failed:
        return ""
    reasons: dict[str, list[str]] = {}
    for number, reason in failed.items():
        reasons.setdefault(reason, []).append(str(number))
    note = f"{len(failed)} of {len(record.candidates)} candidates could not be built or scored; they rank last."
    facts = {_list_candidates(numbers): reason for reason, numbers in reasons.items()}
    return section("Failures", note, fact_table(facts))


def _list_candidates(numbers: Sequence[str], limit: int = 10) -> str:
    more = f" and {len(numbers) - limit} more" if len(numbers) > limit else ""
    return f"candidate{'s' * (len(numbers) > 1)} {', '.join(numbers[:limit])}{more}"


def _recipe(record: Record) -> str:
    note = "The complete merge; build it with: evomerge merge recipe.yaml OUT_DIR"
    return section("Recipe", note, f'<pre tabindex="0"><code>{escape(record.recipe_text)}</code></pre>')


def _provenance(record: Record) -> str:
    result = record.result
    facts = {
        "base": record.config["base"],
        **{f"expert {label}": path for label, path in record.config["experts"].items()},
        "winner": f"{result['winner']['label']}, key {result['winner']['key']}",
        "fingerprint": result["fingerprint"],
        **{name.replace("_", " "): value for name, value in result["counts"].items() if name not in VARIABLE_COUNTS},
        "seed": record.config.get("seed"),
    }
    config = escape(yaml.safe_dump(dict(record.config), sort_keys=False))
    inner = fact_table(facts) + details("Configuration", f'<pre tabindex="0"><code>{config}</code></pre>')
    return section("How it was made", "", inner)


def _seconds(seconds: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The times of a result, then those of each phase of its last command."""
    yield from ((name, value) for name, value in seconds.items() if name != "phases")
    yield from seconds.get("phases", {}).items()


def _circumstances(record: Record) -> str:
    result = record.result
    facts = {
        **{name.replace("_", " "): result["counts"][name] for name in VARIABLE_COUNTS},
        **{f"seconds, {name.replace('_', ' ')}": value for name, value in _seconds(result["seconds"])},
        **{name.replace("_", " "): format_value(value) for name, value in result["machine"].items()},
        "versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    }
    note = "These values depend on time and machine. The rest of the page does not, however often the run was resumed."
    return section("When and where", note, fact_table(facts), VARIABLE_SECTION)
