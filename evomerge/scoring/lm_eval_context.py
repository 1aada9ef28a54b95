"""Context managers for calls of lm-eval, which suppress its output and restore the global random states."""

import contextlib
import io
import logging
import os
import random
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

import datasets
import numpy as np
from lm_eval import evaluator as harness
from lm_eval.api import task as harness_task
from lm_eval.loggers.utils import get_commit_from_path
from lm_eval.utils import env

MAX_TEMPLATES = 512  # compiled templates that are kept
_compiled = lru_cache(MAX_TEMPLATES)(env.from_string)

RANDOM_SEED = 0
SEED = 1234
"""The seeds of `lm_eval.simple_evaluate`: RANDOM_SEED for `random`, SEED for numpy, torch and few-shot samplers."""


@contextlib.contextmanager
def silence_lm_eval() -> Iterator[None]:
    """Suppress progress bars, standard output and log lines of lm-eval and datasets; exceptions still propagate.

    The commit that lm-eval records is read from `.git`, because the git command prints an error outside a repository.
    """
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    tqdm, harness_task.tqdm = harness_task.tqdm, partial(harness_task.tqdm, disable=True)
    commit, harness.get_git_commit_hash = harness.get_git_commit_hash, lambda: get_commit_from_path(os.getcwd())
    with _level("lm_eval", logging.CRITICAL), _level("datasets", logging.CRITICAL):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        finally:
            harness_task.tqdm, harness.get_git_commit_hash = tqdm, commit
            if bars:
                datasets.enable_progress_bars()


@contextlib.contextmanager
def compiled_templates() -> Iterator[None]:
    """Compile each template once; lm-eval does so for every document, which is most of the time of loading a task."""
    before = vars(env).get("from_string")
    env.from_string = _compiled
    try:
        yield
    finally:
        if before is None:
            del env.from_string
        else:
            env.from_string = before


@contextlib.contextmanager
def _level(name: str, level: int) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def lm_eval_seeds() -> Iterator[None]:
    """Set the global seeds that lm-eval sets, and restore the caller's random states afterwards.

    Some tasks shuffle their documents with `random` or `numpy.random` while they load.
    """
    before: tuple[Any, Any] = random.getstate(), np.random.get_state()
    random.seed(RANDOM_SEED)
    np.random.seed(SEED)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
