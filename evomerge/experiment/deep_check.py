"""The audit of a search's models, from its configuration; tasks, space and optimizer are not made for it."""

from collections.abc import Mapping
from typing import Any

from evomerge.audit import Audit, audit_family
from evomerge.experiment.experiment import Experiment, from_config


def audit_experiment(search: Experiment | Mapping[str, Any]) -> Audit:
    """Read the base and all experts of an experiment, or of a composed configuration, once, and return the findings.

    Raises ExpertError if a model cannot be opened or does not fit the base.
    """
    experiment = search if isinstance(search, Experiment) else from_config(search)
    return audit_family(experiment.family, experiment.experts, experiment.config.model.dtype)
