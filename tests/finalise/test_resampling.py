"""The paired bootstrap of scores that are no mean over items."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from evomerge.finalise.resampling import ResampledDifference, Resampler, compare_resampled
from evomerge.finalise.statistics import PairedScores, bootstrap
from evomerge.scoring.protocol import SLICES, Chunk, Plan, task_of
from evomerge.searching.objective import Objective

COUNT = 40


class Largest:
    """A corpus-level metric: the largest value."""

    name, sign = "largest", 1.0

    def __call__(self, values: Sequence[Any]) -> float:
        return float(max(value[0] for value in values))

    compute = __call__


class Mean(Largest):
    def __call__(self, values: Sequence[Any]) -> float:
        return float(np.mean([value[0] for value in values]))

    compute = __call__


class Scored:
    """What a resampler asks of an evaluator."""

    def __init__(self, scores: Mapping[str, Mapping[str, Any]], aggregates: Mapping[str, Any]) -> None:
        items = tuple(next(iter(scores.values())))
        self.plan = Plan(
            {name: (Chunk(f"{name}/0", name, items),) for name in SLICES}, {"a": 1.0, "b": 2.0}, aggregates
        )
        self.objective, self._scores = Objective(self.plan.weights, aggregated=tuple(aggregates)), scores

    def baseline_means(self, slice_name: str) -> dict[str, Any]:
        return {}

    def item_scores(self, key: str, slice_name: str) -> Mapping[str, Any]:
        return self._scores[key]

    def item_lengths(self, key: str, slice_name: str) -> dict[str, float]:
        return {}

    def score(self, key: str, slice_name: str) -> float:
        return self.objective.fitness(self.plan.by_task(self._scores[key]), {}).score


def scores(seed: int, shift: float = 0.0, of_a: Callable[[float], Any] = lambda value: [value]) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    one = {f"a/{i}": of_a(float(generator.random() + shift)) for i in range(COUNT)}
    return one | {f"b/{i}": float(generator.random() + shift) for i in range(COUNT // 2)}


def test_a_mean_as_a_corpus_level_metric_has_the_interval_of_the_items() -> None:
    values = {"winner": scores(1, 0.1), "other": scores(2)}
    resampler: Any = Resampler(Scored(values, {"a": Mean()}), "holdout", seed=3, draws=4000)  # type: ignore[arg-type]
    found = ResampledDifference.of([resampler.of("winner")], resampler.of("other"))
    plain = [{item: one[0] if isinstance(one, list) else one for item, one in each.items()} for each in values.values()]
    paired = PairedScores.of(*plain, {"a": 1.0, "b": 2.0}, task_of)
    interval, theirs = found.interval(), bootstrap(paired)
    assert interval.difference == pytest.approx(theirs.difference)
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert found.standard_error == pytest.approx(paired.standard_error, rel=0.06)


def test_a_draw_is_the_score_of_its_items() -> None:
    values = {"one": scores(1)}
    resampler = Resampler(Scored(values, {"a": Largest()}), "holdout", seed=3, draws=20)  # type: ignore[arg-type]
    found = resampler.of("one")
    for drawn, score in zip(resampler._drawn, found.draws, strict=True):
        first = max(values["one"][f"a/{place}"][0] for place in drawn["a"])
        second = np.mean([values["one"][f"b/{place}"] for place in drawn["b"]])
        assert score == pytest.approx((first + 2 * second) / 3)


def test_equal_models_tie_and_a_clear_lead_is_found() -> None:
    values = {"winner": scores(1, 0.5), "twin": scores(1, 0.5), "low": scores(2), "near": scores(4, 0.49)}
    resampler = Resampler(Scored(values, {"a": Mean()}), "holdout", seed=0)  # type: ignore[arg-type]
    others = {label: resampler.of(label) for label in ("twin", "low", "near")}
    found = {test.label: test for test in compare_resampled(resampler.of("winner"), others)}
    assert found["twin"].interval.difference == 0.0 and found["twin"].significance.p == 1.0
    assert found["low"].verdict == "better" and found["low"].significance.p == pytest.approx(2 / 1001)
    assert found["low"].corrected_p == pytest.approx(6 / 1001)
    assert found["twin"].verdict == found["near"].verdict == "tie"
    assert {test.significance.test for test in found.values()} == {"bootstrap"}


def test_it_depends_on_the_seed_alone() -> None:
    values = {"one": scores(1), "other": scores(2)}
    scored: Any = Scored(values, {"a": Mean()})
    first, again, another = (Resampler(scored, "holdout", seed, 50).of("one").draws for seed in (1, 1, 2))
    assert (first == again).all() and (first != another).any()


@pytest.mark.parametrize("seed", range(3))
def test_p_is_rarely_small_where_models_are_alike(seed: int) -> None:
    generator, small = np.random.default_rng(seed), 0
    for _ in range(40):
        pair = {key: {f"a/{i}": [float(x)] for i, x in enumerate(generator.random(COUNT))} for key in ("one", "other")}
        scored: Any = Scored({k: v | {"b/0": 0.5} for k, v in pair.items()}, {"a": Mean()})
        resampler = Resampler(scored, "holdout", seed=1, draws=200)
        difference = ResampledDifference.of([resampler.of("one")], resampler.of("other"))
        small += difference.significance.p <= 0.05
    assert small <= 7
