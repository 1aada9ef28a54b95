"""Which run of CMA-ES comes next: none, IPOP (Auger & Hansen 2005) or BIPOP (Hansen 2009), as plain arithmetic."""

import math
from dataclasses import dataclass, field

import numpy as np

KINDS = ("none", "ipop", "bipop")


@dataclass
class Restarts:
    """The population and step size of every run after the first, which had `population` and `sigma`."""

    kind: str
    population: int
    sigma: float
    multiple_of: int
    generator: np.random.Generator
    _doublings: int = 0
    _spent: dict[str, int] = field(default_factory=lambda: {"large": 0, "small": 0})  # evaluations of either regime
    _last_large: int = 0
    _regime: str = "first"  # which counts for neither

    def next(self, evaluations: int) -> tuple[int, float]:
        """(population, step size) of the next run, after one that took so many evaluations."""
        if self._regime == "large":
            self._last_large = evaluations
        if self._regime != "first":
            self._spent[self._regime] += evaluations
        small = self.kind == "bipop" and self._doublings > 0 and self._spent["small"] < self._spent["large"]
        self._regime = "small" if small else "large"
        return self._small() if small else self._large()

    def limit(self) -> float:
        """How many evaluations the present run may take: a small one half of the last large one's."""
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
    """The next multiple, so that no worker of so many idles in a generation."""
    return -(-population // multiple_of) * multiple_of
