"""Mean coefficients of candidates and their rank correlation with the score."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from evomerge.recipes import to_document
from evomerge.report.record import Record, read_record
from evomerge.report.search_scores import CandidateScore
from evomerge.report.sensitivity_charts import mean_coefficients, rank_correlation, sensitivity_figures

from .conftest import HOSTILE, recipe


def test_the_rank_correlation_is_that_of_scipy() -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        first, second = generator.integers(0, 6, size=(2, 25)).astype(float)
        assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert rank_correlation([1.0, 1.0], [0.0, 2.0]) == 0.0


@pytest.fixture
def record(run_folder: Path) -> Record:
    found = read_record(run_folder)
    candidates = tuple(CandidateScore(i, f"k{i}", i / 20) for i in range(1, 13))
    return replace(
        found, candidates=candidates, recipes=dict.fromkeys((c.key for c in candidates), to_document(recipe()))
    )


def test_a_mean_is_over_layers_and_components_but_not_outside(record: Record) -> None:
    found = mean_coefficients(record, "k1")
    assert found["weight of math"] == pytest.approx(((0.125 + -0.5) / 2 + 0.25) / 2)
    assert found[f"weight of {HOSTILE}"] == pytest.approx(((1.0 + 0.75) / 2 + 0.25) / 2)
    assert found["density"] == 0.5 and "normalize" not in found, "a truth value"


def test_constant_coefficients_have_no_chart(record: Record) -> None:
    assert sensitivity_figures(record) == []


def test_the_strongest_correlation_comes_first(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {f"k{i}": {"up": float(i), "wave": math.sin(3 * i), "down": -float(i % 11)} for i in range(1, 13)}
    monkeypatch.setattr("evomerge.report.sensitivity_charts.mean_coefficients", lambda _, key: values[key])
    titles = [figure.title for figure in sensitivity_figures(record)]
    assert titles[0] == "up: rank correlation +1.00" and len(titles) == 3
