"""scoring."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.scoring.answers import KINDS, added, clearly_more, count, text_of
    from evomerge.scoring.protocol import SLICES, Answer, Chunk, Counts, Plan, Request, Scorer, task_of
    from evomerge.scoring.silence import SEED, seeded, silence_lm_eval
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "KINDS",
    "SEED",
    "SLICES",
    "Answer",
    "Chunk",
    "Counts",
    "Plan",
    "Request",
    "Scorer",
    "added",
    "clearly_more",
    "count",
    "seeded",
    "silence_lm_eval",
    "task_of",
    "text_of",
]
