"""Restart schedules of CMA-ES: none, IPOP (Auger & Hansen 2005) or BIPOP (Hansen 2009)."""

import math
from dataclasses import dataclass, field

import numpy as np

KINDS = ("none", "ipop", "bipop")


@dataclass
class Restarts:
    """The population and step size of every run; `population` and `sigma` are those of the first."""

    kind: str
    population: int
    sigma: float
    multiple_of: int
    generator: np.random.Generator
    _doublings: int = 0
    _spent: dict[str, int] = field(default_factory=lambda: {"large": 0, "small": 0})  # evaluations per regime
    _last_large: int = 0
    _regime: str = "first"  # the first run counts for neither regime

    def next(self, evaluations: int) -> tuple[int, float]:
        """(population, step size) of the next run; `evaluations` is the number that the last run used."""
        if self._regime == "large":
            self._last_large = evaluations
        if self._regime != "first":
            self._spent[self._regime] += evaluations
        small = self.kind == "bipop" and self._doublings > 0 and self._spent["small"] < self._spent["large"]
        self._regime = "small" if small else "large"
        return self._small() if small else self._large()

    def limit(self) -> float:
        """The largest number of evaluations of the current run: half of the last large run's for a small one."""
        return self._last_large / 2 if self._regime == "small" else math.inf

    def _large(self) -> tuple[int, float]:
        self._doublings += 1
        return rounded_up(self.population * 2**self._doublings, self.multiple_of), self.sigma

    def _small(self) -> tuple[int, float]:
        """λ = λ₀ (λ_large / 2λ₀)^(u²) and σ = σ₀ 10^(−2v), u and v uniform."""
        u, v = self.generator.random(2)
        size = self.population * (2 ** (self._doublings - 1)) ** (u * u)
        return rounded_up(int(size), self.multiple_of), self.sigma * 10.0 ** (-2.0 * v)


def rounded_up(population: int, multiple_of: int) -> int:
    """The population rounded up to a multiple of the number of workers, so that none is idle in a generation."""
    return -(-population // multiple_of) * multiple_of
