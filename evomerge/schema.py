"""Constructors are the schema of the configuration: their keywords, annotations and nothing else.

An annotation says what a value may be: plain types, `Annotated` with a Range, OneOf or Text where not every value of
the type will do, sequences, mappings (keys are text), unions, and classes whose constructors are sections themselves.
`Any` is any plain value: null, true, false, text, finite numbers, lists and mappings of them.
"""

import inspect
import re
import reprlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Protocol, TypeVar, Union, get_args, get_origin

from evomerge.errors import ConfigError
from evomerge.suggest import nearest

Section = TypeVar("Section")
EMPTY: Mapping[str, Any] = MappingProxyType({})
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which no file and no tokenizer takes
LARGEST = {int: 2**63 - 1, float: sys.float_info.max}


class Rule(Protocol):
    """What a value of a plain type must be besides."""

    def allows(self, value: Any) -> bool:
        """Whether a value of the type will do."""

    def words(self, kind: str) -> str:
        """The type and the rule, for a user."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, without those ends that are listed in `without`."""

    low: float
    high: float
    without: tuple[float, ...] = ()

    def allows(self, value: float) -> bool:
        """Whether the number lies between the ends."""
        return self.low <= value <= self.high and value not in self.without

    def words(self, kind: str) -> str:
        """As in `a number above 0, at most 1`."""
        low = f"above {self.low}" if self.low in self.without else f"at least {self.low}"
        high = f"below {self.high}" if self.high in self.without else f"at most {self.high}"
        return f"{kind} {low}, {high}"


@dataclass(frozen=True)
class OneOf:
    """A text of a list."""

    known: tuple[str, ...]

    def allows(self, value: str) -> bool:
        """Whether the list has it."""
        return value in self.known

    def words(self, kind: str) -> str:
        """The list."""
        return f"one of {', '.join(self.known)}"


@dataclass(frozen=True)
class Text:
    """A text that a pattern describes; `like` says it in words."""

    pattern: str
    like: str

    def allows(self, value: str) -> bool:
        """Whether all of it fits and can be printed."""
        return re.fullmatch(self.pattern, value) is not None and value.isprintable()

    def words(self, kind: str) -> str:
        """The words."""
        return self.like


MANY = 10**9
Count = Annotated[int, Range(1, MANY)]
Natural = Annotated[int, Range(0, MANY)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # what every generator of random numbers takes
Label = Annotated[str, Text(r"\S(.{0,98}\S)?", "a name of one line, at most 100 characters")]
Location = Annotated[str, Text(r".{1,4096}", "a path or a hub id, of one line")]


def check_section(target: Callable[..., Any], section: Any, where: str, given: Collection[str] = ()) -> None:
    """ConfigError where a section does not fit the keywords of `target`, the `given` ones being ours to set.

    The message names the innermost key and, for a misspelt one, the nearest; for a value, what it needs.
    """
    if line := _in_section(target, section, where, given):
        raise ConfigError(line)


def build(cls: type[Section], section: Any, where: str) -> Section:
    """An object made of a section that fits its keywords, and of the sections in it; ConfigError as in `check_section`.

    A keyword that is annotated with another class of sections gets an object of that class.
    """
    check_section(cls, section, where)
    hints = {name: parameter.annotation for name, parameter in inspect.signature(cls).parameters.items()}
    return cls(**{key: _built(value, hints[key], _below(where, key)) for key, value in section.items()})


def _built(value: Any, hint: Any, where: str) -> Any:
    is_section = isinstance(hint, type) and hint is not Any and hint not in WORDS
    return build(hint, value, where) if is_section else value


def check_value(value: Any, hint: Any, where: str) -> None:
    """ConfigError at the innermost place where a value is not what an annotation says."""
    if line := _problem(value, hint, where):
        raise ConfigError(line)


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put the key of a configuration before what is wrong with it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def shown(value: Any) -> str:
    """A value as YAML spells it, short and on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return " ".join((value if len(value) <= 80 else f"{value[:77]}...").split()) or "''"
    return _SHORT.repr(value)


def _in_section(target: Callable[..., Any], section: Any, where: str, given: Collection[str] = ()) -> str | None:
    """What is wrong with a section, in one line; None where it fits."""
    if not isinstance(section, Mapping):
        return f"{where}={shown(section)}: give a mapping"
    keywords = {p.name: p for p in inspect.signature(target).parameters.values() if p.kind is p.KEYWORD_ONLY}
    known = [name for name in keywords if name not in given]
    for key, value in section.items():
        if key not in known:
            hint = f"{nearest(shown(key), known)}; " + (f"known are {', '.join(known)}" if known else "there are none")
            return f"{_below(where, key)}: unknown key{hint}"
        if line := _problem(value, keywords[key].annotation, _below(where, key)):
            return line
    needed = (name for name in known if keywords[name].default is inspect.Parameter.empty)
    missing = next((name for name in needed if name not in section), None)
    return missing and f"{_below(where, missing)}: missing; give {_wanted(keywords[missing].annotation)}"


def _problem(value: Any, hint: Any, where: str) -> str | None:
    """What is wrong with a value, in one line; of a union, what is wrong inside the alternative of its kind."""
    found = [_misfit(value, choice, where) for choice in _choices(hint)]
    if None in found:
        return None
    return next((line for line in found if line), f"{where}={shown(value)}: give {_wanted(hint)}")


def _misfit(value: Any, hint: Any, where: str) -> str | None:
    """None where a value is of an annotation that is no union, a line where something inside is not, else ''."""
    kind, rules = (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return _problem(value, _plain(value), where)
    if origin is Mapping:
        return _in_mapping(value, arguments[0], arguments[1], where) if isinstance(value, Mapping) else ""
    if origin is Sequence:
        return _in_entries(enumerate(value), arguments[0], where) if isinstance(value, list | tuple) else ""
    if kind not in WORDS:
        return _in_section(kind, value, where) if isinstance(value, Mapping) else ""
    fits = type(value) is kind or (kind is float and type(value) is int)
    fits = fits and (kind not in LARGEST or abs(value) <= LARGEST[kind])
    fits = fits and not (kind is str and SURROGATE.search(value))
    return None if fits and all(rule.allows(value) for rule in rules) else ""


def _in_mapping(section: Mapping[Any, Any], keys: Any, values: Any, where: str) -> str | None:
    for key in section:
        if not isinstance(key, str):
            return f"{where or 'configuration'}: the key {shown(key)} is no text; write it in quotes"
        if _problem(key, keys, where):
            return f"{where}: the key '{shown(key)}' will not do; give {_wanted(keys)}"
    return _in_entries(section.items(), values, where)


def _in_entries(entries: Iterable[tuple[Any, Any]], hint: Any, where: str) -> str | None:
    return next(filter(None, (_problem(value, hint, _below(where, key)) for key, value in entries)), None)


def _plain(value: Any) -> Any:
    """The annotation that a plain value of this kind must fit."""
    if isinstance(value, Mapping):
        return Mapping[str, Any]
    if isinstance(value, list | tuple):
        return Sequence[Any]
    return type(value) if type(value) in WORDS else str


def _choices(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; of anything else, itself."""
    return tuple(chain.from_iterable(map(_choices, get_args(hint)))) if _is_union(hint) else (hint,)


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _wanted(hint: Any) -> str:
    """An annotation in a user's words."""
    if _is_union(hint):
        return " or ".join(dict.fromkeys(map(_wanted, _choices(hint))))
    if get_origin(hint) is Annotated:
        words = WORDS[hint.__origin__]
        return next((str(rule.words(words)) for rule in hint.__metadata__), words)
    return "a list" if get_origin(hint) is Sequence else WORDS.get(hint, "a mapping")


def _below(where: str, key: Any) -> str:
    return f"{where}.{shown(key)}" if where else shown(key)


class _Short(reprlib.Repr):
    """A few entries of a value, and no number that fills a screen."""

    def repr_int(self, x: int, level: int) -> str:
        return str(x) if abs(x) < 10**40 else f"a number of {x.bit_length()} bits"


_SHORT = _Short()
