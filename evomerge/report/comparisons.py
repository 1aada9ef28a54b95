"""The report's sections that support the claim: comparisons with the baselines, generated answers, Pareto front."""

from html import escape
from itertools import combinations

from evomerge.report.front_chart import draw_front
from evomerge.report.html_elements import scrollable, section
from evomerge.report.record import Record
from evomerge.report.table import alternative_rows, format_difference, format_p, row_name
from evomerge.scoring import ANSWER_PROBLEMS

MAX_PAIRS = 6  # of tasks that have a chart
HEADS = ("baseline", "winner ahead by", "p", "p, corrected", "test", "verdict")


def comparison_section(record: Record) -> str:
    """The comparison of the winner with every baseline on holdout."""
    heads = "".join(f'<th scope="col">{head}</th>' for head in HEADS)
    rows = []
    for comparison in record.result["comparisons"]:
        p_values = (format_p(comparison["p"]), format_p(comparison["corrected"]))
        cells = (format_difference(comparison), *p_values, comparison["test"], comparison["verdict"])
        row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        label = escape(comparison["label"])
        rows.append(f'<tr class="{comparison["verdict"]}"><th scope="row">{label}</th>{row}</tr>')
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    note = (
        "Differences on the same holdout items with a paired bootstrap interval. p is that of the exact McNemar test, "
        "or of a sign-flip test where scores are not 0/1 or items differ in weight; Holm's method corrects it for the "
        "number of baselines. The verdict is better or worse only if the interval and the corrected p agree; otherwise "
        "it is a tie."
    )
    return section("Winner against each baseline", note, scrollable(table, "comparisons"))


def answer_section(record: Record) -> str:
    """The shares of truncated, empty and unparsable answers of every model; empty if no task generates answers."""
    rows = [row for row in (*record.result["rows"], *alternative_rows(record.result)) if row.get("answers")]
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("model", "answers", *ANSWER_PROBLEMS))
    body = ""
    for row in rows:
        answers = row["answers"]
        cells = "".join(f"<td>{answers[kind] / answers['answers']:.1%}</td>" for kind in ANSWER_PROBLEMS)
        body += f'<tr><th scope="row">{escape(row_name(row))}</th><td>{answers["answers"]}</td>{cells}</tr>'
    note = (
        "On holdout. Truncated: the answer reached the token limit before a stop sequence. Unparsable: the task's "
        "filter found nothing in the answer and returned its fallback."
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return section("Generated answers", note, scrollable(table, "generated answers"))


def front_section(record: Record) -> str:
    """The Pareto front, with a chart for each pair of tasks; empty for a single objective."""
    front = record.result["front"]
    if not front:
        return ""
    pairs = list(combinations(front["tasks"], 2))[:MAX_PAIRS]
    figures = "".join(
        f"<figure><h3>{escape(first)} and {escape(second)}</h3>{draw_front(record, first, second, f'front-{place}')}"
        "</figure>"
        for place, (first, second) in enumerate(pairs)
    )
    keys = (("", "candidate"), ("member", "member of the front"), ("baseline", "baseline"), ("winner", "winner"))
    legend = "".join(f'<span><i class="key {kind}"></i>{name}</span>' for kind, name in keys)
    note = (
        "Scores on the search slice. The members of the front are not dominated on select; their recipes are in front/ "
        "in the run's folder. The winner is the knee of the front: its loss against the best score, in units of each "
        "objective's range on the front, is smallest in the worst objective."
    )
    return section("Front", note, f'<div class="multiples">{figures}</div><figcaption>{legend}</figcaption>')
