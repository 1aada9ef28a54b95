"""Constructors are the schema of the configuration: their keywords, annotations and nothing else."""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from evomerge.errors import ConfigError
from evomerge.suggest import nearest

Section = TypeVar("Section")


def check_section(target: Callable[..., Any], section: Any, where: str, given: Collection[str] = ()) -> None:
    """ConfigError where a section does not fit the keywords of `target`, the `given` ones being ours to set.

    The message names the key and, for a misspelt one, the nearest; for a value, the type that it needs.
    """
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where}={section}: give a mapping")
    keywords = {p.name: p for p in inspect.signature(target).parameters.values() if p.kind is p.KEYWORD_ONLY}
    known = [name for name in keywords if name not in given]
    for key, value in section.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in known:
            raise ConfigError(f"{path}: unknown key{nearest(str(key), known)}; known are {', '.join(known)}")
        hint = keywords[key].annotation
        if not _fits(value, hint):
            raise ConfigError(f"{path}={value}: give {_wanted(hint)}")


def build(cls: type[Section], section: Any, where: str) -> Section:
    """An object made of a section that fits its keywords; ConfigError as in `check_section`."""
    check_section(cls, section, where)
    return cls(**section)


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put the key of a configuration before what is wrong with it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of an annotation; annotations beyond plain types are their owner's to check."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, choice) for choice in arguments)
    if hint in (int, bool, str, NoneType):
        return type(value) is hint
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(inner, arguments[1]) for inner in value.values())
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(_fits(inner, arguments[0]) for inner in value)
    return True


def _wanted(hint: Any) -> str:
    """A type in a user's words."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(dict.fromkeys(_wanted(choice) for choice in get_args(hint)))
    if get_origin(hint) is Sequence:
        return "a list"
    return words.get(hint, "a mapping")


def one_of(key: str, value: str, known: Iterable[str]) -> None:
    """ConfigError that lists what a key may be."""
    if value not in known:
        raise ConfigError(f"{key}={value}: choose of {', '.join(known)}")


def positive(key: str, value: int) -> None:
    """ConfigError for a count below 1."""
    if value < 1:
        raise ConfigError(f"{key}={value}: give at least 1")
