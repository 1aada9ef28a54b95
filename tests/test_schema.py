"""The configuration's schema: keyword names and types of constructors."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from evomerge.errors import ConfigError
from evomerge.schema import Location, check_section, check_value


def target(
    *,
    count: int = 1,
    rate: float = 0.5,
    flag: bool = False,
    name: str | None = None,
    tasks: Sequence[str] = (),
    genes: Mapping[str, float | bool] | None = None,
    free: Any = None,
) -> None:
    """A constructor with one keyword of each kind."""


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"count": 3, "rate": 1, "flag": True, "name": None, "tasks": ["a"], "genes": {"x": 1.0, "y": True}},
        {"free": {"a": [1, 0.5, None, {"b": True}]}},
    ],
)
def test_fitting_sections_pass(section: Mapping[str, Any]) -> None:
    check_section(target, section, "here")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"cuont": 1}, "here.cuont: unknown key (did you mean 'count'?); known are count, rate"),
        ({"count": 1.5}, "here.count=1.5: give a whole number"),
        ({"count": True}, "here.count=true: give a whole number"),
        ({"rate": "fast"}, "here.rate=fast: give a number"),
        ({"flag": 1}, "here.flag=1: give true or false"),
        ({"name": 3}, "here.name=3: give a text or null"),
        ({"tasks": "abc"}, "here.tasks=abc: give a list"),
        ({"tasks": [1]}, "here.tasks.0=1: give a text"),
        ({"genes": {"x": "y"}}, "here.genes.x=y: give a number or true or false"),
        (3, "here=3: give a mapping"),
    ],
)
def test_a_misfit_names_key_and_remedy(section: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_section(target, section, "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_caller_sets_is_not_the_users_to_set() -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        check_section(target, {"count": 1}, "here", reserved=("count",))


def test_what_contains_itself_is_refused() -> None:
    inside: dict[str, Any] = {}
    inside["a"] = [inside, inside]
    with pytest.raises(ConfigError, match="here: nested more than 100 deep"):
        check_section(target, {"free": inside}, "here")


@pytest.mark.parametrize("path", ["", "x" * 256, "é" * 128, "a/" * 2100, "a\0b", "a\nb", 3, None])
def test_a_path_that_no_file_system_holds_is_refused(path: Any) -> None:
    with pytest.raises(ConfigError, match="^base.*: give a path or a hub id, of one line$"):
        check_value(path, Location, "base")
    check_value("/a//" + "x" * 255 + "/é", Location, "base")
