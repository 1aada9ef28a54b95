"""Which cases of a parametrised test belong to the fast suite: a sample in which every value of every parameter occurs.

The other cases get the mark `slow`. `@pytest.mark.sampled(n)` keeps at most n cases of a test. `--part` divides the
selected tests, for a machine that has no time for all of them.
"""

import argparse
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import pytest

Value = tuple[str, tuple[int, ...]]  # the arguments of one `parametrize`, and the identities of their values
Case = tuple[str, frozenset[Value]]  # the name of a case, and the values that it takes


def rank(name: str) -> str:
    """A pseudo-random order of names that depends on nothing but the name."""
    return hashlib.sha256(name.encode()).hexdigest()


def covering(cases: Iterable[Case]) -> Iterator[str]:
    """The names of a small sample that has every value: each next case adds as many new values as any other."""
    left = dict(sorted(cases, key=lambda case: rank(case[0])))
    missing = frozenset[Value]().union(*left.values())
    while missing:
        best = max(left, key=lambda name: len(left[name] & missing))
        missing -= left.pop(best)
        yield best


def values(case: pytest.Function) -> frozenset[Value]:
    """One value for each `parametrize` and each parametrised fixture of the test."""
    params = dict(case.callspec.params)
    found: list[Value] = []
    for marker in case.iter_markers("parametrize"):
        names = marker.args[0].split(",") if isinstance(marker.args[0], str) else marker.args[0]
        names = [name.strip() for name in names if name.strip()]
        found.append((",".join(names), tuple(id(params.pop(name)) for name in names)))
    return frozenset([*found, *((name, (id(value),)) for name, value in params.items())])


def mark_the_rest_slow(items: Sequence[pytest.Item]) -> None:
    """Mark every case that is not in the sample of its test as `slow`."""
    tests: dict[str, dict[str, pytest.Function]] = defaultdict(dict)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and not item.get_closest_marker("slow"):
            tests[item.nodeid.partition("[")[0]][item.name] = item
    for cases in tests.values():
        sample = list(covering((name, values(case)) for name, case in cases.items()))
        sampled = next(iter(cases.values())).get_closest_marker("sampled")
        for name in cases.keys() - set(sample[: sampled.args[0] if sampled else None]):
            cases[name].add_marker("slow")


def part(text: str) -> tuple[int, int]:
    """K and N of `--part K/N`."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text}: give K/N with K from 1 to N")
    return int(number), int(count)


def keep_part(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect all tests but those of one part; a test is always in the same part."""
    number, count = config.option.part
    kept = [item for item in items if int(rank(item.nodeid), 16) % count == number - 1]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
