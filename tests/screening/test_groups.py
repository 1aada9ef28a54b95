"""Groups of similar task vectors: against connected components, and whatever the order."""

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from evomerge.screening.groups import similar_groups


def cosines(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 3))  # in three dimensions many are similar
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_the_connected_components(seed: int) -> None:
    found, labels = cosines(15, seed), [f"e{place}" for place in range(15)]
    _, component = connected_components(found >= 0.8)
    expected = {tuple(sorted(np.array(labels)[component == c])) for c in set(component)}
    assert set(similar_groups(labels, found, 0.8)) == expected
    assert sum(map(len, similar_groups(labels, found, 0.8))) == 15


def test_the_order_of_the_experts_does_not_matter() -> None:
    found, labels = cosines(12, 3), [f"e{place}" for place in range(12)]
    order = np.random.default_rng(1).permutation(12)
    shuffled = similar_groups([labels[i] for i in order], found[np.ix_(order, order)], 0.8)
    assert shuffled == similar_groups(labels, found, 0.8)


def test_opposite_vectors_are_not_similar() -> None:
    assert similar_groups(["a", "b"], np.array([[1.0, -1.0], [-1.0, 1.0]]), 0.9) == [("a",), ("b",)]
