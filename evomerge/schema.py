"""Validates sections of the configuration against the keywords and annotations of constructors.

The annotation of a keyword defines its valid values: plain types, `Annotated` types with a Range, OneOf or Text,
sequences, mappings with text keys, unions, and classes whose constructors define sections themselves. `Any` accepts
every plain value: null, true, false, text, finite numbers, and lists and mappings of them.
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
from evomerge.parsing import refuse_deep
from evomerge.suggest import did_you_mean

Section = TypeVar("Section")
EMPTY: Mapping[str, Any] = MappingProxyType({})
TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
SURROGATE = re.compile("[\ud800-\udfff]")  # lone surrogates, which cannot be written to a file or tokenised
LARGEST_VALUES = {int: 2**63 - 1, float: sys.float_info.max}


class Constraint(Protocol):
    """A constraint on the values of a plain type."""

    def allows(self, value: Any) -> bool:
        """Whether a value of the type is valid."""

    def describe(self, kind: str) -> str:
        """The valid values in words for a message; `kind` is the name of the type."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; ends that are listed in `without` are excluded."""

    low: float
    high: float
    without: tuple[float, ...] = ()

    def allows(self, value: float) -> bool:
        """Whether the number is in the range."""
        return self.low <= value <= self.high and value not in self.without

    def describe(self, kind: str) -> str:
        """For example `a number above 0, at most 1`."""
        low = f"above {self.low}" if self.low in self.without else f"at least {self.low}"
        high = f"below {self.high}" if self.high in self.without else f"at most {self.high}"
        return f"{kind} {low}, {high}"


@dataclass(frozen=True)
class OneOf:
    """One of a list of texts."""

    choices: tuple[str, ...]

    def allows(self, value: str) -> bool:
        """Whether the text is in the list."""
        return value in self.choices

    def describe(self, kind: str) -> str:
        """The list of valid texts."""
        return f"one of {', '.join(self.choices)}"


@dataclass(frozen=True)
class Text:
    """A text that matches a pattern; `like` is its description for messages."""

    pattern: str
    like: str

    def allows(self, value: str) -> bool:
        """Whether the whole text matches and is printable."""
        return re.fullmatch(self.pattern, value) is not None and value.isprintable()

    def describe(self, kind: str) -> str:
        """The description."""
        return self.like


@dataclass(frozen=True)
class FilePath:
    """A printable path that a file system can hold: names of at most 255 bytes, 4,095 in all."""

    def allows(self, value: str) -> bool:
        """Whether looking for the path cannot fail for its text alone."""
        if not value or not value.isprintable():
            return False
        names = value.encode(errors="surrogatepass").split(b"/")
        return max(map(len, names)) <= 255 and sum(map(len, names)) + len(names) <= 4096

    def describe(self, kind: str) -> str:
        """The description; a hub id is a path of two names."""
        return "a path or a hub id, of one line"


MAX_COUNT = 10**9
Count = Annotated[int, Range(1, MAX_COUNT)]
Natural = Annotated[int, Range(0, MAX_COUNT)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # the range that all random number generators accept
Label = Annotated[str, Text(r"\S(.{0,98}\S)?", "a name of one line, at most 100 characters")]
Location = Annotated[str, FilePath()]


def check_section(target: Callable[..., Any], section: Any, where: str, reserved: Collection[str] = ()) -> None:
    """ConfigError if a section does not fit the keywords of `target`; a section cannot set the `reserved` keywords.

    The message names the innermost key, the closest valid key for a misspelt one, or the valid values.
    """
    _refuse_deep(section, where)
    if line := _section_problem(target, section, where, reserved):
        raise ConfigError(line)


def build(cls: type[Section], section: Any, where: str) -> Section:
    """An object of `cls` from a section with its keywords; ConfigError as in `check_section`.

    Nested sections, whose keywords are annotated with a class, become objects of that class.
    """
    check_section(cls, section, where)
    hints = {name: parameter.annotation for name, parameter in inspect.signature(cls).parameters.items()}
    return cls(**{key: _built(value, hints[key], _join_key(where, key)) for key, value in section.items()})


def _built(value: Any, hint: Any, where: str) -> Any:
    is_section = isinstance(hint, type) and hint is not Any and hint not in TYPE_NAMES
    return build(hint, value, where) if is_section else value


def check_value(value: Any, hint: Any, where: str) -> None:
    """ConfigError if a value does not fit an annotation; the message names the innermost key."""
    _refuse_deep(value, where)
    if line := _problem(value, hint, where):
        raise ConfigError(line)


def _refuse_deep(value: Any, where: str) -> None:
    try:
        refuse_deep(value)
    except ValueError as error:
        raise ConfigError(f"{where or 'configuration'}: {error}") from None


@contextmanager
def prefix_errors(where: str) -> Iterator[None]:
    """Put a configuration key before the message of a ConfigError that the block raises."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def as_yaml(value: Any) -> str:
    """A value in YAML syntax, shortened to one line, for messages."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return " ".join((value if len(value) <= 80 else f"{value[:77]}...").split()) or "''"
    return _SHORT.repr(value)


def _section_problem(
    target: Callable[..., Any], section: Any, where: str, reserved: Collection[str] = ()
) -> str | None:
    """The first problem of a section as one line; None if it fits."""
    if not isinstance(section, Mapping):
        return f"{where}={as_yaml(section)}: give a mapping"
    keywords = {p.name: p for p in inspect.signature(target).parameters.values() if p.kind is p.KEYWORD_ONLY}
    known = [name for name in keywords if name not in reserved]
    for key, value in section.items():
        if key not in known:
            suggestion = f"{did_you_mean(as_yaml(key), known)}; " + (
                f"known are {', '.join(known)}" if known else "there are none"
            )
            return f"{_join_key(where, key)}: unknown key{suggestion}"
        if line := _problem(value, keywords[key].annotation, _join_key(where, key)):
            return line
    needed = (name for name in known if keywords[name].default is inspect.Parameter.empty)
    missing = next((name for name in needed if name not in section), None)
    return missing and f"{_join_key(where, missing)}: missing; give {describe_values(keywords[missing].annotation)}"


def _problem(value: Any, hint: Any, where: str) -> str | None:
    """The problem of a value as one line, or None; for a union, that inside the alternative of the value's type."""
    found = [_mismatch(value, choice, where) for choice in _alternatives(hint)]
    if None in found:
        return None
    return next((line for line in found if line), f"{where}={as_yaml(value)}: give {describe_values(hint)}")


def _mismatch(value: Any, hint: Any, where: str) -> str | None:
    """None if a value fits an annotation other than a union; the problem of an inner value; '' if its type is wrong."""
    kind, constraints = (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return _problem(value, _plain_annotation(value), where)
    if origin is Mapping:
        return _mapping_problem(value, arguments[0], arguments[1], where) if isinstance(value, Mapping) else ""
    if origin is Sequence:
        return _entries_problem(enumerate(value), arguments[0], where) if isinstance(value, list | tuple) else ""
    if kind not in TYPE_NAMES:
        return _section_problem(kind, value, where) if isinstance(value, Mapping) else ""
    fits = type(value) is kind or (kind is float and type(value) is int)
    fits = fits and (kind not in LARGEST_VALUES or abs(value) <= LARGEST_VALUES[kind])
    fits = fits and not (kind is str and SURROGATE.search(value))
    return None if fits and all(constraint.allows(value) for constraint in constraints) else ""


def _mapping_problem(section: Mapping[Any, Any], keys: Any, values: Any, where: str) -> str | None:
    for key in section:
        if not isinstance(key, str):
            return f"{where or 'configuration'}: the key {as_yaml(key)} is no text; write it in quotes"
        if _problem(key, keys, where):
            return f"{where}: the key '{as_yaml(key)}' will not do; give {describe_values(keys)}"
    return _entries_problem(section.items(), values, where)


def _entries_problem(entries: Iterable[tuple[Any, Any]], hint: Any, where: str) -> str | None:
    return next(filter(None, (_problem(value, hint, _join_key(where, key)) for key, value in entries)), None)


def _plain_annotation(value: Any) -> Any:
    """The annotation for a plain value of this type."""
    if isinstance(value, Mapping):
        return Mapping[str, Any]
    if isinstance(value, list | tuple):
        return Sequence[Any]
    return type(value) if type(value) in TYPE_NAMES else str


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; a tuple of the annotation itself if it is not a union."""
    return tuple(chain.from_iterable(map(_alternatives, get_args(hint)))) if _is_union(hint) else (hint,)


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def describe_values(hint: Any) -> str:
    """The values that an annotation allows, in words such as `a whole number at least 1 or null`."""
    if _is_union(hint):
        return " or ".join(dict.fromkeys(map(describe_values, _alternatives(hint))))
    if get_origin(hint) is Annotated:
        kind = TYPE_NAMES[hint.__origin__]
        return next((str(constraint.describe(kind)) for constraint in hint.__metadata__), kind)
    return "a list" if get_origin(hint) is Sequence else TYPE_NAMES.get(hint, "a mapping")


def _join_key(where: str, key: Any) -> str:
    return f"{where}.{as_yaml(key)}" if where else as_yaml(key)


class _Short(reprlib.Repr):
    """A repr that limits the number of entries and the length of integers."""

    def repr_int(self, x: int, level: int) -> str:
        return str(x) if abs(x) < 10**40 else f"a number of {x.bit_length()} bits"


_SHORT = _Short()
