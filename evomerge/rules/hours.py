"""The rule about time: `budget.hours` is set, and leaves time for export and prediction."""

from evomerge.rules.config import SHARE_OF_SEARCH
from evomerge.rules.verdict import Verdict


def judge_hours(hours: float | None, limit: float) -> Verdict:
    """Whether a search with this `budget.hours` leaves a part of the limit for what follows it.

    The budget covers the command of the search up to its end. The times of export and prediction are not known before.
    """
    remedy = f"set budget.hours={SHARE_OF_SEARCH * limit:g}"
    if hours is None:
        return Verdict("hours", "run", "broken", f"budget.hours is not set, at most {limit:g} is allowed", remedy)
    if hours > limit:
        return Verdict("hours", "run", "broken", f"budget.hours={hours:g}, at most {limit:g} is allowed", remedy)
    left = limit - hours
    if not left:
        reason = f"the search may take all of {limit:g} hours; export and prediction follow it"
        return Verdict("hours", "run", "unknown", reason, remedy)
    return Verdict("hours", "run", "ok", f"{hours:g} of {limit:g}; {60 * left:.3g} minutes for export and prediction")
