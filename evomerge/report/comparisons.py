"""The report's sections that support the claim: comparisons with the baselines, and generated answers."""

from evomerge.report.html_elements import Grid, section, table
from evomerge.report.record import Record
from evomerge.report.table import alternative_rows, format_difference, format_p, row_name
from evomerge.scoring import ANSWER_PROBLEMS

HEADS = ("baseline", "winner ahead by", "p", "p, corrected", "test", "verdict")


def comparison_section(record: Record) -> str:
    """The comparison of the winner with every baseline on holdout."""
    rows, kinds = [], []
    for comparison in record.result["comparisons"]:
        p_values = (format_p(comparison["p"]), format_p(comparison["corrected"]))
        cells = (format_difference(comparison), *p_values, comparison["test"], comparison["verdict"])
        rows.append((comparison["label"], *cells))
        kinds.append(comparison["verdict"])
    note = (
        "Differences on the same holdout items with a paired bootstrap interval. p is that of the exact McNemar test, "
        "or of a sign-flip test where scores are not 0/1 or items differ in weight; Holm's method corrects it for the "
        "number of baselines. The verdict is better or worse only if the interval and the corrected p agree; otherwise "
        "it is a tie."
    )
    return section("Winner against each baseline", note, table(Grid(HEADS, rows), "comparisons", kinds))


def answer_section(record: Record) -> str:
    """The shares of truncated, empty and unparsable answers of every model; empty if no task generates answers."""
    rows = [row for row in (*record.result["rows"], *alternative_rows(record.result)) if row.get("answers")]
    if not rows:
        return ""
    cells = []
    for row in rows:
        answers = row["answers"]
        shares = (f"{answers[kind] / answers['answers']:.1%}" for kind in ANSWER_PROBLEMS)
        cells.append((row_name(row), str(answers["answers"]), *shares))
    grid = Grid(("model", "answers", *ANSWER_PROBLEMS), cells)
    note = (
        "On holdout. Truncated: the answer reached the token limit before a stop sequence. Unparsable: the task's "
        "filter found nothing in the answer and returned its fallback."
    )
    return section("Generated answers", note, table(grid, "generated answers"))
