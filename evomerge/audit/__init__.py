"""An audit of a family before a search is paid for: it reads the deltas and says what would spoil every merge.

Each file holds one kind of check or two, as a function from the survey (models and statistics of all tensors) to its
findings. The room knows no method, no task and no search. The rule: a threshold is a named constant with its reason,
and what a healthy family can have is no finding.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.audit.finding import Finding
    from evomerge.audit.inspection import Audit, audit_family
    from evomerge.audit.named_bases import other_bases
    from evomerge.audit.task_vectors import TaskVectors, measure_task_vectors
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = ["Audit", "Finding", "TaskVectors", "audit_family", "measure_task_vectors", "other_bases"]
