"""Experiments with models of the hub: they compose, name models by hub ids, and name tasks that lm-eval has."""

import re

import pytest
from lm_eval.tasks import TaskManager

from evomerge.experiment.config import read_config
from tests.cli.test_conf import composed

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[0-9a-f]{40})?")


@pytest.fixture(scope="module")
def known_tasks():
    return set(TaskManager().all_tasks)


@pytest.mark.parametrize("name", ["japanese_math", "qwen25"])
def test_an_experiment_is_complete(name, known_tasks):
    config = read_config(composed(f"+experiment={name}"))
    assert config.base is not None and "@" in config.base
    assert all(HUB_ID.fullmatch(model) for model in (config.base, *config.experts.values()))
    assert {task if isinstance(task, str) else task["name"] for task in config.scorer.tasks} <= known_tasks
    assert config.budget.hours and len(config.methods) >= 1
