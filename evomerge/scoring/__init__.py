"""Items, slices and chunks, what is asked of a model about them, and how answers become scores.

This page has what the rest of evomerge knows of scoring: plain values, and the `Scorer` protocol of the driver's side.
`scoring.tasks` has lm-eval's tasks, frozen once and graded per item; `scoring.engine` has the forward passes of a
worker. The driver sends requests as token ids and gets raw responses back, so a worker needs no task and no data set.
The rule: prompts, filters and metrics are lm-eval's, so that a score equals what `lm_eval` prints for the same items.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.scoring.answers import ANSWER_PROBLEMS, add_counts, count_answers, response_text, significantly_more
    from evomerge.scoring.lm_eval_context import SEED, compiled_templates, lm_eval_seeds, silence_lm_eval
    from evomerge.scoring.protocol import (
        SLICES,
        TOKENS,
        Answer,
        Chunk,
        CorpusMetric,
        Counts,
        ItemLoss,
        Plan,
        Request,
        Scorer,
        length_of,
        task_of,
    )
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "ANSWER_PROBLEMS",
    "SEED",
    "SLICES",
    "TOKENS",
    "Answer",
    "Chunk",
    "CorpusMetric",
    "Counts",
    "ItemLoss",
    "Plan",
    "Request",
    "Scorer",
    "add_counts",
    "compiled_templates",
    "count_answers",
    "length_of",
    "lm_eval_seeds",
    "response_text",
    "significantly_more",
    "silence_lm_eval",
    "task_of",
]
