"""`make fuzz`: the properties of this folder with many more inputs, and how many inputs each of them has had.

An argument is the number of inputs, 100,000 unless given, a second one the seed, which is printed.
"""

import os
import sys
import time
from pathlib import Path

import pytest

INPUTS_OF_THE_SAMPLE = 4_000  # of all properties together, nearly
FOLDER = Path(__file__).parent


class Tally:
    """Collects how long each test took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after each phase of a test."""
        if report.when == "call":
            self.seconds[report.nodeid.rpartition("::")[2]] = report.duration


def main(count: int, seed: int) -> int:
    """Check the properties with about `count` inputs; the exit code is 1 if one of them failed."""
    os.environ["EVOMERGE_FUZZ_FACTOR"] = str(max(1.001, count / INPUTS_OF_THE_SAMPLE))
    tally, begun = Tally(), time.monotonic()
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:logging", f"--hypothesis-seed={seed}", str(FOLDER)]
    code = pytest.main(options, plugins=[tally])
    from tests.fuzz.budget import INPUTS

    for name, inputs in sorted(INPUTS.items()):
        sys.stdout.write(f"{inputs:9,} {name}\n")
    sys.stdout.write(f"{sum(INPUTS.values()):9,} inputs in {time.monotonic() - begun:.0f} s, seed {seed}\n")
    for name, seconds in tally.seconds.items():
        sys.stdout.write(f"{seconds:9.1f} s {name}\n")
    return int(code)


if __name__ == "__main__":
    given = [int(text.replace(",", "")) for text in sys.argv[1:]]
    sys.exit(main(*(given + [100_000, time.time_ns() % 2**32][len(given) :])))
