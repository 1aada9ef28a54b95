"""Sizes of slices: within the documents, at most what is affordable, larger with more of it."""

import pytest

from evomerge.autoconfig.sizes import FEWEST_DOCUMENTS, LARGEST, SMALLEST, choose_sizes
from evomerge.errors import ConfigError

COUNTS = [{"a": 40}, {"a": 200, "b": 200}, {"a": 1300, "b": 64, "c": 500}, {f"t{i}": 300 for i in range(12)}]


@pytest.mark.parametrize("documents", COUNTS)
@pytest.mark.parametrize("affordable", [0, 2000, 10**9])
@pytest.mark.parametrize("price", [None, 2.3])
def test_slices_fit_into_the_documents(documents: dict[str, int], affordable: float, price: float | None) -> None:
    sizes = choose_sizes(documents, 10, price, affordable)
    for task, count in documents.items():
        own = {"search": sizes.search[task], "select": sizes.select[task], "holdout": sizes.holdout[task]}
        assert sum(own.values()) <= count
        assert all(SMALLEST[slice_] <= size <= LARGEST[slice_] for slice_, size in own.items())


@pytest.mark.parametrize("documents", COUNTS)
def test_a_larger_allowance_never_makes_it_smaller_and_is_kept(documents: dict[str, int]) -> None:
    least = choose_sizes(documents, 10, 2.3, 0).cost(10, 2.3)
    costs = [choose_sizes(documents, 10, 2.3, allowed).cost(10, 2.3) for allowed in (0, 4000, 8000, 16000, 10**9)]
    assert costs == sorted(costs) and costs[0] == least
    assert all(cost <= max(least, allowed) for cost, allowed in zip(costs[:4], (0, 4000, 8000, 16000), strict=True))


def test_the_search_costs_the_items_that_were_given() -> None:
    sizes = choose_sizes({"a": 400, "b": 400}, 10, 2.0, 10**9, items=1200)
    assert sizes.search_items(2.0) == pytest.approx(1200, rel=0.2)


def test_few_questions_are_used_more_often() -> None:
    few, many = choose_sizes({"a": 80}, 8, 2.3, 10**9), choose_sizes({"a": 2000, "b": 2000}, 8, 2.3, 10**9)
    assert few.passes > many.passes == 3


def test_too_few_questions_are_refused() -> None:
    choose_sizes({"a": FEWEST_DOCUMENTS}, 5, 2.3, 10**9)
    with pytest.raises(ConfigError, match=r"task 'a' has 20 different questions; it needs 32 or more"):
        choose_sizes({"a": 20}, 5, 2.3, 10**9)
