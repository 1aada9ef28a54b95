"""scoring."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.scoring.answers import KINDS, add_counts, count_answers, significantly_more, text_of
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
    "add_counts",
    "count_answers",
    "seeded",
    "significantly_more",
    "silence_lm_eval",
    "task_of",
    "text_of",
]
