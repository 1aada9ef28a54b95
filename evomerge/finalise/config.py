"""The section `finalise` of an experiment's configuration."""

from dataclasses import dataclass
from typing import Annotated

from evomerge.schema import Range

MAX_CANDIDATES = 100_000  # a bound against typing errors, far above any useful number


@dataclass(frozen=True, kw_only=True)
class FinaliseConfig:
    """How many candidates are scored on `select`.

    `top` is the number of the best candidates of the search. `simplify` is the largest number of candidates for a
    simpler recipe. `cloud` is the number of points around the winner that measure its sensitivity, at `radius` (root
    mean square step of a coordinate, in units of the cube's edge). 0 turns `simplify` or `cloud` off.
    `calibrate_routers` fits the routers of a mixture of experts to items of `search`; they are kept if the winner is
    then better on `select`.
    """

    calibrate_routers: bool = False
    top: Annotated[int, Range(1, MAX_CANDIDATES)] = 5
    simplify: Annotated[int, Range(0, MAX_CANDIDATES)] = 0
    cloud: Annotated[int, Range(0, MAX_CANDIDATES)] = 0
    radius: Annotated[float, Range(0, 1, without=(0, 1))] = 0.05
