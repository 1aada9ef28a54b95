"""The choice of method, optimizer, space and rows for what models and tasks allow, each with the reason for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.experiment import Experiment
from evomerge.models import AdapterExpert, resolve_device
from evomerge.scoring import task_of

ADAPTER_PRICE, FULL_PRICE = 2.3, 3.0  # of an item with its slope, in forward passes (docs/slopes.md)
# Parameters of base and experts together up to which a row of TSV is worth its tables.
LARGEST_TABLES = {"cpu": 5e8, "cuda": 4e9}
TEXTBOOK_WEIGHT = 0.6  # often the best weight of task arithmetic for two to four experts
WEIGHTS = {"low": -0.5, "high": 2.0}  # an expert may be subtracted where that helps
RATE, CORE_RATE = 0.02, 0.025  # of the descent: 0.05 of a weight, and of an α from 0 to 2


@dataclass(frozen=True)
class Approach:
    """How to search: sections of a configuration, and a reason for each; `price` is None without a descent."""

    sections: Mapping[str, Any]
    reasons: Mapping[str, str]
    price: float | None


def choose_approach(experiment: Experiment) -> Approach:
    """A descent on slopes where every task has right choices, CMA-ES on few coefficients elsewhere.

    The loss of a text says little about the metric of generated answers, so such tasks are searched by their scores.
    """
    return _descent(experiment) if have_choices(experiment) else _evolution(experiment)


def _descent(experiment: Experiment) -> Approach:
    """Several adapters descend from their best textbook merge, with α = 1 everywhere; others from task arithmetic."""
    space: dict[str, Any] = {"schedule": "each", "components": ["attention", "mlp"]}
    if _several_adapters(experiment):
        method, rate, why = "core_tsv", CORE_RATE, "the best textbook merge of adapters, which the descent starts from"
    else:
        method, rate, why = "task_arithmetic", RATE, "it merges every kind of expert; below 0 an expert is subtracted"
        space["genes"] = {"weight": WEIGHTS}
    reasons = {
        "method": why,
        "space": "a coefficient for each expert, layer and component",
        "optimizer": "every task has right choices: one backward pass gives the slopes of all coefficients",
    }
    sections = {"method": method, "space": space, "optimizer": {"name": "slope", "rate": rate}}
    return Approach(sections, reasons, ADAPTER_PRICE if only_adapters(experiment) else FULL_PRICE)


def _evolution(experiment: Experiment) -> Approach:
    several = _several_adapters(experiment)
    sections = {
        "method": "core_tsv" if several else ["task_arithmetic", "ties"],
        "space": {"schedule": "blocks:2"},
        "optimizer": {"name": "cma"},
    }
    reasons = {
        "method": "the best textbook merge of adapters" if several else "the search chooses between them",
        "space": "few coefficients, because only scores guide the search",
        "optimizer": "a task is scored by generated text, which has no slope",
    }
    return Approach(sections, reasons, None)


def choose_rows(experiment: Experiment, method: object) -> dict[str, Any]:
    """Textbook merges that the winner is compared with, beside those that every search has."""
    if len(experiment.experts) < 2:
        return {}
    rows: dict[str, Any] = {"ties": "ties", "dare_ties": "dare_ties"}
    rows[f"ta_{TEXTBOOK_WEIGHT:g}"] = {"name": "task_arithmetic", "genes": {"weight": TEXTBOOK_WEIGHT}}
    tsv = "core_tsv" if only_adapters(experiment) else "tsv_m"
    if tsv != method and (tsv == "core_tsv" or _tables_are_cheap(experiment)):
        rows["tsv"] = tsv
    return rows


def only_adapters(experiment: Experiment) -> bool:
    """Whether every expert is a LoRA adapter of the base."""
    return all(isinstance(expert, AdapterExpert) for expert in experiment.family.experts.values())


def _several_adapters(experiment: Experiment) -> bool:
    return only_adapters(experiment) and len(experiment.experts) > 1


def have_choices(experiment: Experiment) -> bool:
    """Whether every task of the search slice has items with a right choice among several."""
    items = experiment.scorer.plan.items("search")
    chosen = {task_of(item) for item in items if (loss := experiment.scorer.loss(item)) and loss.gold is not None}
    return chosen == {task_of(item) for item in items}


def _tables_are_cheap(experiment: Experiment) -> bool:
    device = resolve_device(experiment.config.model.device).partition(":")[0]
    return experiment.family.base.parameter_count * (1 + len(experiment.experts)) <= LARGEST_TABLES[device]
