"""trials.jsonl: journal, memo and resume in one.

One line per scored chunk or failure, on the disk before the search goes on; opening the file replays what is paid for.
The room knows keys, chunks and numbers, no recipe and no model. The rule: lines are only added, the meaning of a key
never changes, and a line that stands twice counts once.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.ledger.ledger import Ledger
    from evomerge.ledger.reading import (
        begun_header,
        chunks_of,
        complete_scores,
        lengths_of,
        plan_of,
        read_trials,
        refuse_other_search,
    )
    from evomerge.ledger.records import Cut, Learnt, Rechunking, SlopePrice
    from evomerge.ledger.summary import describe_ledger
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "Cut",
    "Learnt",
    "Ledger",
    "Rechunking",
    "SlopePrice",
    "begun_header",
    "chunks_of",
    "complete_scores",
    "describe_ledger",
    "lengths_of",
    "plan_of",
    "read_trials",
    "refuse_other_search",
]
