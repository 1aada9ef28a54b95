"""How many inputs each property gets and has had: a fixed sample in the fast suite, more in `make fuzz`."""

import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, settings

FACTOR = float(os.environ.get("EVOMERGE_FUZZ_FACTOR", "1"))  # `make fuzz` sets it
INPUTS: Counter[str] = Counter()  # name of a property → the inputs that it was checked with
SECONDS = 60.0  # for one input on a busy machine that has to import torch; without a limit, a hang would look slow
PHASES = tuple(
    phase
    for phase in Phase
    if phase not in (Phase.explain, Phase.reuse, *((Phase.shrink,) if os.environ.get("NOSHRINK") else ()))
)  # what costs time and is not read

Test = Callable[..., Any]


def inputs(count: int) -> Callable[[Test], Test]:
    """Check a property with `count` inputs, which are the same in every run unless FACTOR asks for more of them."""
    return settings(
        max_examples=max(1, round(count * FACTOR)),
        derandomize=FACTOR == 1,
        database=None,
        deadline=timedelta(seconds=SECONDS),
        suppress_health_check=list(HealthCheck),
        phases=PHASES,
    )
