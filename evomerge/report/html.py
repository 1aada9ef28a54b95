"""report.html: a finished run on one page that needs no network, no other file and no script."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import yaml

from evomerge.atomic import write_atomically
from evomerge.report.charts import heat_map, search_curve, task_bars
from evomerge.report.coefficients import Block, blocks, constants
from evomerge.report.elements import details, fact_table, plain, section, wide
from evomerge.report.honesty import answers, comparisons, front
from evomerge.report.record import Record, missing, read
from evomerge.report.table import claim, name_of, notes, number, offered
from evomerge.scoring import SLICES

REPORT = "report.html"
MOMENT = "moment"  # names the one section that two runs of the same search may differ in
PAID = ("items_scored", "items_scored_this_time")  # counts that depend on when a run was stopped, and on its workers
# The page states that it loads nothing, and the browser holds it to that.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write_report(folder: Path) -> Path:
    """Write report.html into a run's folder from the files there; RunError where it is not a finished run's."""
    path = folder / REPORT
    write_atomically(path, page(read(folder)))
    return path


def page(record: Record) -> str:
    """The whole document."""
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    parts = (_head, _table, comparisons, answers, _search, front, _tasks, _coefficients, _failures)
    body = "\n".join(part(record) for part in (*parts, _recipe, _facts, _moment))
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


def _fates(counts: Mapping[str, int]) -> str:
    stopped = f"{counts['stopped_early']} stopped early, " if counts.get("stopped_early") else ""
    return f"{stopped}{counts['failed']} failed"


def _head(record: Record) -> str:
    result, counts = record.result, record.result["counts"]
    experts = ", ".join(record.config["experts"])
    interval = result["interval"]
    rival = next(row for row in record.baselines if row["label"] == result["best_baseline"])
    span = f"{interval['level']:.0%}: {interval['low']:+.4f} … {interval['high']:+.4f}"
    tiles = (
        ("winner on holdout", number(record.winner["scores"]["holdout"]), f"candidate {result['winner']['label']}"),
        ("best baseline", number(rival["scores"]["holdout"]), rival["label"]),
        ("difference", f"{result['difference']:+.4f}", span),
        ("candidates", f"{counts['candidates']}", _fates(counts)),
    )
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in tiles
    )
    return f"""<header>
<p class="over">evomerge · {escape(record.recipe.method)} of {escape(experts)}</p>
<h1>{escape(record.name)}</h1>
<p class="claim {escape(result["verdict"])}">{escape(claim(result))}</p>
{"".join(f"<p class='note'>{escape(line)}.</p>" for line in notes(result))}
<dl class="tiles">{cells}</dl>
</header>"""


def _table(record: Record) -> str:
    tasks = list(record.winner["tasks"])
    rows = []
    shown = [*record.result["rows"], *offered(record.result)]
    columns = [[row["scores"][name] for row in shown] for name in SLICES]
    columns += [[row["tasks"].get(task) for row in shown] for task in tasks]
    for place, row in enumerate(shown):
        winner = row["role"] == "winner"
        rival = row["role"] == "baseline" and row["label"] == record.result["best_baseline"]
        kind = "winner" if winner else "rival" if rival else ""
        cells = "".join(_score(column, place, "task" if i >= len(SLICES) else "") for i, column in enumerate(columns))
        rows.append(f'<tr class="{kind}"><th scope="row">{escape(name_of(row))}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("model", *SLICES))
    heads += "".join(f'<th scope="col" class="task">{escape(task)}</th>' for task in tasks)
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    note = (
        "The search saw only the search slice, the winner was chosen on select, and what is claimed was measured on "
        "holdout; the columns after it are its tasks. The best of each column is in bold."
    )
    return section("Result", note, wide(table, "result table"))


def _score(column: Sequence[float | None], place: int, kind: str) -> str:
    value = column[place]
    top = max((v for v in column if v is not None and not missing(v)), default=None)
    best = " best-of" if value is not None and value == top else ""
    return f'<td class="{kind}{best}">{number(value)}</td>'


def _search(record: Record) -> str:
    keys = [("", "candidate"), ("line", "best so far"), ("winner", "winner, chosen on select")]
    keys += [("rival", "best baseline on holdout")]
    if any(not point.whole for point in record.points):
        keys.append(("dropped", "stopped early: score estimated by the items it saw"))
    if record.failures():
        keys.append(("failed", "failed"))
    legend = "".join(f'<span><i class="key {kind}">{"×" * (kind == "failed")}</i>{name}</span>' for kind, name in keys)
    figure = f"<figure>{wide(search_curve(record), 'search curve')}<figcaption>{legend}</figcaption></figure>"
    return section("Search", "Scores on the search slice. The baselines are dashed.", figure)


def _tasks(record: Record) -> str:
    contenders = record.contenders()
    parts = [
        f"<figure><h3>{escape(task)}</h3>{task_bars(task, contenders, f'task-{place}')}</figure>"
        for place, task in enumerate(contenders[0].scores)
    ]
    note = "The winner, the best baseline and each expert, on items that neither the search nor the choice saw."
    return section("Holdout, task by task", note, f'<div class="multiples">{"".join(parts)}</div>')


def _coefficients(record: Record) -> str:
    found = blocks(record.recipe, record.result.get("layers"), record.config)
    parts = []
    for place, gene in enumerate(dict.fromkeys(block.gene for block in found)):
        own = [block for block in found if block.gene == gene]
        parts.append(f"<h3>{escape(gene)}</h3>{wide(heat_map(gene, own, f'gene-{place}'), f'heat map of {gene}')}")
        parts.append(details("Values as a table", "".join(wide(_block_table(b), b.component) for b in own)))
    fixed = ", ".join(f"{name} = {plain(value)}" for name, value in constants(record.recipe).items())
    if fixed:
        parts.append(f'<p class="note">The same for every model and layer: {escape(fixed)}.</p>')
    return section("The winner’s coefficients", "What the recipe gives each model at each layer.", "".join(parts))


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
    for point, reason in failed.items():
        reasons.setdefault(reason, []).append(str(point))
    note = f"{len(failed)} of {len(record.points)} candidates could not be built or scored; they rank last."
    facts = {_some(points): reason for reason, points in reasons.items()}
    return section("Failures", note, fact_table(facts))


def _some(points: Sequence[str], limit: int = 10) -> str:
    more = f" and {len(points) - limit} more" if len(points) > limit else ""
    return f"candidate{'s' * (len(points) > 1)} {', '.join(points[:limit])}{more}"


def _recipe(record: Record) -> str:
    note = "The whole merge; build it with: evomerge merge recipe.yaml OUT_DIR"
    return section("Recipe", note, f'<pre tabindex="0"><code>{escape(record.recipe_text)}</code></pre>')


def _facts(record: Record) -> str:
    result = record.result
    facts = {
        "base": record.config["base"],
        **{f"expert {label}": path for label, path in record.config["experts"].items()},
        "winner": f"{result['winner']['label']}, key {result['winner']['key']}",
        "fingerprint": result["fingerprint"],
        **{name.replace("_", " "): value for name, value in result["counts"].items() if name not in PAID},
        "seed": record.config.get("seed"),
    }
    config = escape(yaml.safe_dump(dict(record.config), sort_keys=False))
    inner = fact_table(facts) + details("Configuration", f'<pre tabindex="0"><code>{config}</code></pre>')
    return section("How it was made", "", inner)


def _moment(record: Record) -> str:
    result = record.result
    facts = {
        **{name.replace("_", " "): result["counts"][name] for name in PAID},
        **{f"seconds, {name.replace('_', ' ')}": value for name, value in result["seconds"].items()},
        **{name.replace("_", " "): plain(value) for name, value in result["machine"].items()},
        "versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    }
    note = "What depends on the moment and the machine; all else here is the same however often the run was resumed."
    return section("When and where", note, fact_table(facts), MOMENT)
