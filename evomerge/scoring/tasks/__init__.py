"""lm-eval's tasks: read from an experiment, loaded and frozen once, drawn into slices, graded item by item.

The room runs in the driver alone and knows no model but its tokenizer's chat template. The rule: what cannot be graded
is refused before a model is loaded, and a document never stands in two slices.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.scoring.tasks.aggregates import find_aggregate
    from evomerge.scoring.tasks.engine_lm import EngineLM, Evaluation, evaluate_tasks
    from evomerge.scoring.tasks.lm_eval_scorer import LMEvalScorer
    from evomerge.scoring.tasks.loading import TaskLoader
    from evomerge.scoring.tasks.own_task import count_questions
    from evomerge.scoring.tasks.question_file import QUESTION_SUFFIXES
    from evomerge.scoring.tasks.questions import kinds_of_rows
    from evomerge.scoring.tasks.slices import make_chunks
    from evomerge.scoring.tasks.task_entries import ScorerConfig, read_tasks
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "QUESTION_SUFFIXES",
    "EngineLM",
    "Evaluation",
    "LMEvalScorer",
    "ScorerConfig",
    "TaskLoader",
    "count_questions",
    "evaluate_tasks",
    "find_aggregate",
    "kinds_of_rows",
    "make_chunks",
    "read_tasks",
]
