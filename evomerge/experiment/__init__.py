"""experiment."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.experiment.experiment import Experiment, from_config
    from evomerge.experiment.finished_model import score_model
    from evomerge.experiment.fixed import fixed_part, refuse_changed, run_name
    from evomerge.experiment.preview import describe
    from evomerge.experiment.run import replay, run_experiment
    from evomerge.experiment.sections import Device, Dtype, Scoring, Tokens
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "Device",
    "Dtype",
    "Experiment",
    "Scoring",
    "Tokens",
    "describe",
    "fixed_part",
    "from_config",
    "refuse_changed",
    "replay",
    "run_experiment",
    "run_name",
    "score_model",
]
