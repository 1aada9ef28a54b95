"""The page's sections on what the claim rests on: every baseline beside the winner, and the front."""

from html import escape
from itertools import combinations

from evomerge.report.elements import section, wide
from evomerge.report.front_chart import front_chart
from evomerge.report.record import Record
from evomerge.report.table import ahead, name_of, offered, p_value
from evomerge.scoring import ANSWER_PROBLEMS

SHOWN = 6  # pairs of tasks that are drawn
HEADS = ("baseline", "winner ahead by", "p", "p, corrected", "test", "verdict")


def comparisons(record: Record) -> str:
    """The winner against every baseline on holdout."""
    found = record.result["comparisons"]
    heads = "".join(f'<th scope="col">{head}</th>' for head in HEADS)
    rows = []
    for one in found:
        cells = (ahead(one), p_value(one["p"]), p_value(one["corrected"]), one["test"], one["verdict"])
        row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr class="{one["verdict"]}"><th scope="row">{escape(one["label"])}</th>{row}</tr>')
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    note = (
        "Differences on the same holdout items with a paired bootstrap interval; p of the exact McNemar test, or of "
        "random signs where items do not count alike; Holm's correction for the number of baselines. Better or worse "
        "is said only where interval and corrected p agree; else it is a tie."
    )
    return section("Winner against each baseline", note, wide(table, "comparisons"))


def answers(record: Record) -> str:
    """How many generated answers of every model are worth little; nothing where no task generates."""
    rows = [row for row in (*record.result["rows"], *offered(record.result)) if row.get("answers")]
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("model", "answers", *ANSWER_PROBLEMS))
    body = ""
    for row in rows:
        found = row["answers"]
        cells = "".join(f"<td>{found[kind] / found['answers']:.1%}</td>" for kind in ANSWER_PROBLEMS)
        body += f'<tr><th scope="row">{escape(name_of(row))}</th><td>{found["answers"]}</td>{cells}</tr>'
    note = (
        "On holdout. Truncated: at the token limit before a stop sequence. Unparsable: the task's filter found nothing "
        "in it and fell back."
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return section("Generated answers", note, wide(table, "generated answers"))


def front(record: Record) -> str:
    """The front of several objectives, a figure for each pair of tasks; nothing where there is one objective."""
    found = record.result["front"]
    if not found:
        return ""
    pairs = list(combinations(found["tasks"], 2))[:SHOWN]
    figures = "".join(
        f"<figure><h3>{escape(first)} and {escape(second)}</h3>{front_chart(record, first, second, f'front-{place}')}"
        "</figure>"
        for place, (first, second) in enumerate(pairs)
    )
    keys = (("", "candidate"), ("member", "member of the front"), ("rival", "baseline"), ("winner", "winner, its knee"))
    legend = "".join(f'<span><i class="key {kind}"></i>{name}</span>' for kind, name in keys)
    note = (
        "Scores on the search slice. Members are dominated by nobody on select; front/ in the run's folder holds their "
        "recipes. The winner is the one whose worst objective gives up least of the front's range."
    )
    return section("Front", note, f'<div class="multiples">{figures}</div><figcaption>{legend}</figcaption>')
