"""The first points at seed 1, rounded: a change here makes every ledger on disk unresumable.

Optuna's are Optuna's own, and may change with it.
"""

import numpy as np
import pytest

from evomerge.optimizers import Surrogate, Vector, create
from tests.toys import cube

GOLDEN = {
    "cma": [
        [0.25, 0.5, 0.75],
        [0.319117, 0.664326, 0.81609],
        [0.007749, 0.681074, 0.839278],
        [0.142609, 0.616226, 0.822917],
    ],
    "random": [
        [0.25, 0.5, 0.75],
        [0.511822, 0.950464, 0.14416],
        [0.948649, 0.311831, 0.423326],
        [0.827703, 0.409199, 0.549594],
    ],
    "sobol": [
        [0.25, 0.5, 0.75],
        [0.267725, 0.361755, 0.712344],
        [0.883998, 0.618688, 0.175813],
        [0.505274, 0.144222, 0.98894],
    ],
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_first_generation(name: str) -> None:
    optimizer, surrogate = create(name, cube(3), [np.array([0.25, 0.5, 0.75])], 1, {"population": 4}), Surrogate()
    found: list[Vector] = []
    while len(found) < 4:
        vectors = optimizer.ask(surrogate)
        found += vectors
        surrogate.tell(vectors, [0.0] * len(vectors))
        optimizer.tell(vectors, [0.0] * len(vectors))
    assert np.array(found[:4]) == pytest.approx(np.array(GOLDEN[name]), abs=1e-5)
