"""Corpus-level metrics: a number computed from the values of all items together, as F1 or BLEU, instead of their mean.

An aggregate has a name by which it is found again, so that a ledger can be read without the task: that of lm-eval's
registry, or `module:function` of the user's.
"""

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import lm_eval.api.metrics as lm_eval_metrics
import numpy as np
from lm_eval.api.registry import AGGREGATION_REGISTRY

from evomerge.errors import CandidateError, EvomergeError, TaskError
from evomerge.scoring.tasks.own_functions import load_function, number_problem

assert lm_eval_metrics  # its import fills the registry
WITHOUT_A_VALUE = ("bypass", "mean", "nanmean")  # no corpus-level metric is computed by these
REMEMBERED = 4096  # values of an aggregate that are kept, as a search asks for the same ones many times


@dataclass(frozen=True)
class Aggregate:
    """Computes the value of a metric from the values of its items; `sign` is -1 if lower is better."""

    name: str
    sign: float
    function: Callable[[list[Any]], Any]

    def __call__(self, values: Sequence[Any]) -> float:
        """The metric, higher is better; NaN if it is not finite, TaskError if it is not a number. It is remembered."""
        return _remembered(self, json.dumps(list(values)))

    def compute(self, values: Sequence[Any]) -> float:
        """The same, not remembered."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of F1 without any positive, which is 0
            try:
                found = self.function(list(values))
            except (OverflowError, ZeroDivisionError):
                return math.nan
            except EvomergeError:
                raise
            except Exception as error:  # such as F1 of more than two classes
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise TaskError(f"metric '{self.name}' cannot be computed: {reason}; use another metric") from error
        problem = number_problem(found)
        if problem and problem.endswith("not a number"):
            raise TaskError(f"aggregate={self.name}: its value {problem}; return one number")
        return math.nan if problem else self.sign * float(found)


@lru_cache(maxsize=REMEMBERED)
def _remembered(aggregate: Aggregate, text: str) -> float:
    return aggregate.compute(json.loads(text))


def name_of(function: Callable[..., Any]) -> str | None:
    """The name of an aggregation of lm-eval's, or None for a function that its registry does not have."""
    names = (name for name in AGGREGATION_REGISTRY if name not in WITHOUT_A_VALUE)
    return next((name for name in names if AGGREGATION_REGISTRY[name] is function), None)


def find_aggregate(name: str, sign: float, where: str = "aggregate") -> Aggregate:
    """The aggregate with this name; TaskError if there is none."""
    function: Callable[[list[Any]], Any] = load_function(name, where) if ":" in name else AGGREGATION_REGISTRY[name]
    return Aggregate(name, sign, function)


def as_record(value: Any, item: str) -> Any:
    """An item's value in the form in which JSON returns it; CandidateError for infinite numbers, TaskError for objects.

    Lists of records and of texts are kept, so an aggregate can be computed again from the ledger.
    """
    try:
        record = json.loads(json.dumps(value, allow_nan=False, default=_plain))
    except ValueError:
        raise CandidateError(
            f"item {item}: a value of its metric is not finite; the merged weights are no use"
        ) from None
    except TypeError:
        kind = type(value).__name__
        raise TaskError(
            f"item {item}: its value is a {kind}; return a number, or a list of numbers and texts"
        ) from None
    if record is None or isinstance(record, str):
        raise TaskError(f"item {item}: its value is {record!r:.60}; return a number, or a list of numbers and texts")
    return float(record) if isinstance(record, bool) else record


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError
