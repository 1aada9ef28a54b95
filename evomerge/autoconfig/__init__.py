"""A whole configuration from base, experts and tasks alone: what `evomerge BASE EXPERT… --tasks …` runs.

The room measures the base's pace, sizes slices and budget by it, and chooses method, optimizer, dtype and pool by what
is known of models, tasks and machine. It knows no search: the result is an experiment file with a reason for each
choice, which runs like any other experiment. The rule: what is chosen stands in that file, so that it can be edited and
repeated.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.autoconfig.quick_search import run_quick, screen_quick, write_experiment
    from evomerge.autoconfig.request import Request
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = ["Request", "run_quick", "screen_quick", "write_experiment"]
