"""scoring."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.scoring.answers import KINDS, added, clearly_more, count, text_of
    from evomerge.scoring.engine_lm import EngineLM, evaluate
    from evomerge.scoring.protocol import SLICES, Answer, Chunk, Counts, Plan, Request, Scorer, task_of
    from evomerge.scoring.silence import SEED, quiet, seeded
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "KINDS",
    "SEED",
    "SLICES",
    "Answer",
    "Chunk",
    "Counts",
    "EngineLM",
    "Plan",
    "Request",
    "Scorer",
    "added",
    "clearly_more",
    "count",
    "evaluate",
    "quiet",
    "seeded",
    "task_of",
    "text_of",
]
