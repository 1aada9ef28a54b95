"""The rule about time: `budget.hours` is set, and covers what the contest counts."""

from evomerge.rules.config import SHARE_OF_SEARCH
from evomerge.rules.verdict import Verdict


def judge_hours(hours: float | None, limit: float, *, submits: bool) -> Verdict:
    """Whether a run with this `budget.hours` keeps to the limit.

    The budget covers all commands of a run up to its end: search, comparison and, where the run `submits`, predictions
    and pack. Otherwise a part of the limit must be left for them; their times are not known before.
    """
    wanted = limit if submits else SHARE_OF_SEARCH * limit
    remedy = f"set budget.hours={wanted:g}"
    if hours is None:
        return Verdict("hours", "run", "broken", f"budget.hours is not set, at most {limit:g} is allowed", remedy)
    if hours > limit:
        return Verdict("hours", "run", "broken", f"budget.hours={hours:g}, at most {limit:g} is allowed", remedy)
    if submits:
        return Verdict("hours", "run", "ok", f"{hours:g} of {limit:g}, predictions and pack included")
    left = limit - hours
    if not left:
        reason = f"the search may take all of {limit:g} hours; export and prediction follow it"
        remedy += ", or submission.pack=true, which makes the budget cover them"
        return Verdict("hours", "run", "unknown", reason, remedy)
    return Verdict("hours", "run", "ok", f"{hours:g} of {limit:g}; {60 * left:.3g} minutes for export and prediction")
