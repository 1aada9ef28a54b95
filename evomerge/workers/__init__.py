"""One candidate on one device: the live model, the materializer that writes into it, the engine that answers with it.

A worker knows chunks by their ids and returns raw responses; tasks, metrics and scores are the driver's. The rule: what
goes wrong with a candidate is returned as a value, never raised.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.workers.jobs import Job, Outcome, Slopes, SlopeWork, WorkerSpec
    from evomerge.workers.model_config import Device, Dtype, ModelConfig, Scoring, Tokens
    from evomerge.workers.node_check import refuse_other_models
    from evomerge.workers.worker import Worker
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "Device",
    "Dtype",
    "Job",
    "ModelConfig",
    "Outcome",
    "Scoring",
    "SlopeWork",
    "Slopes",
    "Tokens",
    "Worker",
    "WorkerSpec",
    "refuse_other_models",
]
