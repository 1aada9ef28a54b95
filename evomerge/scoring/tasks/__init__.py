"""scoring.tasks."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.scoring.tasks.engine_lm import EngineLM, evaluate
    from evomerge.scoring.tasks.lm_eval_scorer import LMEvalScorer
    from evomerge.scoring.tasks.loading import TaskLoader
    from evomerge.scoring.tasks.slices import into_chunks
    from evomerge.scoring.tasks.task_entries import read_tasks
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "EngineLM",
    "LMEvalScorer",
    "TaskLoader",
    "evaluate",
    "into_chunks",
    "read_tasks",
]
