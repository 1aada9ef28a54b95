"""The items of holdout on which winner and best baseline differ, with their text behind a click."""

from collections.abc import Sequence
from html import escape

from evomerge.finalise import Flip, flipped_items, shown_flips
from evomerge.report.html_elements import Grid, details, section, table
from evomerge.report.record import Record
from evomerge.scoring import task_of

NOTE = (
    "Holdout items with different scores of the winner and the best baseline ({}). The numbers of items won and lost "
    "are the data of the paired test above."
)


def flips_section(record: Record) -> str:
    """Counts for each task, then the items that the winner has won and lost; empty where no item differs."""
    baseline = record.best_baseline
    flips = flipped_items(record.holdout.get(record.winner["key"], {}), record.holdout.get(baseline["key"], {}))
    if not flips:
        return ""
    parts = [_counts(record, flips)]
    for title, won in (("Won: the winner is better", True), ("Lost: the winner is worse", False)):
        count, shown = sum(flip.won == won for flip in flips), shown_flips(flips, won)
        more = f", {len(shown)} are shown" * (count > len(shown))
        inner = "".join(_item(record, flip, str(baseline["label"])) for flip in shown) or '<p class="note">None.</p>'
        parts.append(f'<h3>{title} ({count} items{more})</h3><div class="flips">{inner}</div>')
    return section("Item by item", NOTE.format(baseline["label"]), "".join(parts))


def _counts(record: Record, flips: Sequence[Flip]) -> str:
    rows = []
    for task in dict.fromkeys(map(task_of, record.holdout[record.winner["key"]])):
        found = [flip for flip in flips if task_of(flip.item) == task]
        won, items = sum(flip.won for flip in found), record.holdout[record.winner["key"]]
        total = sum(task_of(item) == task for item in items)
        rows.append((task, str(total), str(won), str(len(found) - won), str(total - len(found))))
    return table(Grid(("task", "items", "won", "lost", "equal"), rows), "items won and lost")


def _item(record: Record, flip: Flip, baseline: str) -> str:
    """An item as a summary line; its text is inside where the run has kept it."""
    scores = f"winner {flip.winner:g}, {baseline} {flip.baseline:g}"
    summary = f"{'▲ won' if flip.won else '▼ lost'} · {flip.item} · {scores}"
    lines = record.texts.get(flip.item)
    if lines is None:
        return details(summary, '<p class="note">The run has not kept the text of this item.</p>')
    text = "\n".join(lines)
    return details(summary, f'<pre tabindex="0" role="region" aria-label="{escape(flip.item)}">{escape(text)}</pre>')
