"""Reads and writes YAML and JSON so that a number is what its text says.

YAML is read with the plain numbers of YAML 1.2: `1e-3` is a number, and the spellings that YAML 1.1 changes without a
word (017 → 15, 1_000 → 1000, 1:30 → 90, dates) are text, so that a key for a number refuses them. Numbers that a float
cannot hold (1e400, 1e-400), keys that are repeated, and documents that are too deep, too long or contain themselves are
refused. Every refusal is a ValueError of one short line.
"""

import json
import math
import re
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import yaml
from yaml.constructor import ConstructorError

MAX_DEPTH = 100  # of nested lists and mappings
MAX_VALUES = 1_000_000  # of a YAML document in which each alias counts as a copy
MAX_DIGITS = 1000  # of a whole number
MAX_LENGTH = 300  # characters of a reason
HALF_A_CHARACTER = "a text has half of a character (a lone surrogate)"
UNUSUAL_NUMBER = re.compile(r"[0-9]{300}|[0-9][eE][-+]?[0-9]{3}")  # too long, or with a large exponent
INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
FLOAT = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
INT_TAG, FLOAT_TAG, MERGE_TAG = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "merge"))
NUMBER_TAGS = (INT_TAG, FLOAT_TAG)
CHANGED_BY_YAML_1_1 = (INT_TAG, FLOAT_TAG, "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")

Resolvers = dict[str, list[tuple[str, re.Pattern[str]]]]


def parse_yaml(text: str) -> Any:
    """The value of a YAML document: null, truth values, numbers, text, lists and mappings; None for an empty text."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_long(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(one_line(error.problem or error.context)[: MAX_LENGTH - 50] + place) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(one_line(error)) from None
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None


def changed_number(text: str) -> str | None:
    """The first plain scalar that YAML 1.1 reads as another number than it says, such as 017; None for other texts."""
    try:
        tokens = [token for token in yaml.scan(text, Loader=yaml.SafeLoader) if isinstance(token, yaml.ScalarToken)]
    except yaml.YAMLError:
        return None
    loader: Any = yaml.SafeLoader("")
    plain = (str(token.value) for token in tokens if token.plain and not _is_decimal(token.value))
    return next((text for text in plain if loader.resolve(yaml.ScalarNode, text, (True, False)) in NUMBER_TAGS), None)


def _is_decimal(text: str) -> bool:
    return bool(INTEGER.fullmatch(text) or FLOAT.fullmatch(text))


def parse_json(text: str | bytes, *, repeated_keys: bool = False, numbers_as_text: bool = False) -> Any:
    """The value of a JSON text. NaN and Infinity, which JSON lacks, are read, as `json` writes them.

    With `repeated_keys` the last one counts, as in the libraries that write model folders. With `numbers_as_text`
    1.50 is the text '1.50'.
    """
    hooks: dict[str, Any] = {} if repeated_keys else {"object_pairs_hook": _different_keys}
    try:
        plain = text.decode() if isinstance(text, bytes) else text
        if numbers_as_text:
            hooks |= {"parse_float": str, "parse_int": str}
        elif UNUSUAL_NUMBER.search(plain):  # a function for each number costs as much as all the rest
            hooks |= {"parse_float": _number, "parse_int": _whole_number}
        value = json.loads(plain, **hooks)
    except ValueError as error:
        raise ValueError(one_line(error)) from None
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    if plain.count("[") + plain.count("{") > MAX_DEPTH:
        refuse_deep(value)
    if "\\ud" in plain.lower():
        _refuse_surrogates(value)
    return value


def parse_number(text: str) -> float:
    """The number that a text says in decimal digits, as in `0.5` and `1e-3`; ValueError for any other text."""
    if not _is_decimal(text):
        raise ValueError(f"{one_line(text)[:40]!r} is not a number")
    return _float_of(text)


def dump_yaml(value: Any, **options: Any) -> str:
    """Plain values as YAML, which this module, PyYAML and mergekit read as the same values."""
    return str(yaml.dump(value, Dumper=options.pop("Dumper", Dumper), **options))


def refuse_deep(value: Any) -> None:
    """ValueError if lists and mappings are nested more than MAX_DEPTH deep, or one of them contains itself."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = list({id(entry): entry for one in level for entry in _entries(one)}.values())
        if not level:
            return
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def one_line(error: object) -> str:
    """The message of another library's error as one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…"


def _refuse_surrogates(value: Any) -> None:
    """ValueError for half a character, as in "\\ud800", which cannot be written to a file or a terminal."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(HALF_A_CHARACTER) from None


def _number(text: str) -> float:
    """The float of a decimal text; ValueError if it overflows or underflows."""
    number = float(text)
    mantissa = re.split("[eE]", text)[0]
    if math.isinf(number) or (number == 0 and re.search("[1-9]", mantissa)):
        raise ValueError(f"the number {one_line(text)[:40]} is too {'large' if number else 'small'} for a float")
    return number


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _different_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)[:80]!r} is there twice")
    return found


def _entries(value: Any) -> Iterator[Any]:
    """The entries of a list or mapping that may have entries themselves."""
    found = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return (entry for entry in found if isinstance(entry, Mapping | list | tuple))


def _refuse_long(root: yaml.Node) -> None:
    """ValueError if the document, with its aliases as copies, is too long or too deep, or contains itself."""
    measured: dict[int, tuple[int, int]] = {}  # id of a node → its values and its depth; 0 while it is being measured

    def measure(node: yaml.Node) -> tuple[int, int]:
        if id(node) not in measured:
            measured[id(node)] = 0, 0
            inner = [measure(child) for child in _children(node)]
            measured[id(node)] = 1 + sum(size for size, _ in inner), 1 + max((depth for _, depth in inner), default=-1)
        size, depth = measured[id(node)]
        if size == 0:
            raise ValueError(f"the anchor in line {node.start_mark.line + 1} refers to itself")
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        if size > MAX_VALUES:
            raise ValueError(f"with its aliases it has more than {MAX_VALUES} values")
        return size, depth

    measure(root)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


class _Loader(yaml.SafeLoader):
    """SafeLoader with the plain numbers of YAML 1.2, no dates, no repeated keys and no tags."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if tag := getattr(event := yaml.SafeLoader.peek_event(self), "tag", None):
            raise ConstructorError(
                None, None, f"the tag {tag[-40:]} is not read; write the plain value", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for entry in (entry for entry, _ in node.value if entry.tag != MERGE_TAG):
            if not isinstance(entry, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key is a list or a mapping", entry.start_mark)
            if (key := self.construct_object(entry)) in seen:
                raise ConstructorError(None, None, f"the key {entry.value[:80]!r} is there twice", entry.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    try:
        node.value.encode()
    except UnicodeEncodeError:
        raise ConstructorError(None, None, HALF_A_CHARACTER, node.start_mark) from None
    return str(node.value)


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return _whole_number(node.value)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return _float_of(node.value)


def _float_of(text: str) -> float:
    text = text.lower().replace(".inf", "inf").replace(".nan", "nan")
    return float(text) if text[-1] in "fn" else _number(text)


def _resolvers(original: Resolvers, without: tuple[str, ...]) -> Resolvers:
    """Rules for plain scalars: those of PyYAML `without` some tags, then the decimal numbers."""
    found = {first: [rule for rule in rules if rule[0] not in without] for first, rules in original.items()}
    for first in "-+0123456789.":
        whole = [(INT_TAG, re.compile(rf"(?:{INTEGER.pattern})$"))] if first != "." else []
        found[first] = [*found.get(first, ()), *whole, (FLOAT_TAG, re.compile(rf"(?:{FLOAT.pattern})$"))]
    return found


_Loader.yaml_implicit_resolvers = _resolvers(yaml.SafeLoader.yaml_implicit_resolvers, CHANGED_BY_YAML_1_1)
_Loader.add_constructor("tag:yaml.org,2002:str", _text)
_Loader.add_constructor(INT_TAG, _int)
_Loader.add_constructor(FLOAT_TAG, _float)


class Dumper(yaml.SafeDumper):
    """SafeDumper that quotes each text which this module's reader or PyYAML's would read as a number; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


Dumper.yaml_implicit_resolvers = _resolvers(yaml.SafeDumper.yaml_implicit_resolvers, ())


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    text = {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan" if value != value else repr(value))
    mantissa, exponent, rest = text.partition("e")
    if exponent and "." not in mantissa:  # YAML 1.1 wants the point
        text = f"{mantissa}.0e{rest}"
    return dumper.represent_scalar(FLOAT_TAG, text)


Dumper.add_representer(float, _represent_float)
