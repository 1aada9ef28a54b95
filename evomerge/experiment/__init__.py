"""A configuration, checked and wired into parts, and what is done with it: describe, run, replay, score.

`run.py` is the whole story of a run on one page. The room knows all rooms below it, and no command line. The rule:
a configuration is checked key by key before anything is opened, and everything else that can be wrong shows before
weights are read.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.experiment.config import ExperimentConfig, read_config
    from evomerge.experiment.deep_check import audit_experiment
    from evomerge.experiment.defaults import prepare_run, read_file, read_preset
    from evomerge.experiment.experiment import Experiment, from_config
    from evomerge.experiment.finished_model import score_model
    from evomerge.experiment.holdout_score import ScoredOnRun, score_on_run
    from evomerge.experiment.preview import describe
    from evomerge.experiment.replay import Replayed, replay_run
    from evomerge.experiment.result import Result
    from evomerge.experiment.resume import refuse_changed
    from evomerge.experiment.run import run_experiment
    from evomerge.experiment.score_config import RunScoreConfig, read_run_score_config, read_score_config
    from evomerge.experiment.screening_run import screen_experiment
    from evomerge.experiment.shown_vocabulary import vocabulary_lines
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "Experiment",
    "ExperimentConfig",
    "Replayed",
    "Result",
    "RunScoreConfig",
    "ScoredOnRun",
    "audit_experiment",
    "describe",
    "from_config",
    "prepare_run",
    "read_config",
    "read_file",
    "read_preset",
    "read_run_score_config",
    "read_score_config",
    "refuse_changed",
    "replay_run",
    "run_experiment",
    "score_model",
    "score_on_run",
    "screen_experiment",
    "vocabulary_lines",
]
