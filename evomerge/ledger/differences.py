"""The keys in which two configurations differ, each with its two values cut to a line."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evomerge.schema import as_yaml

ABSENT = object()
MAX_SHOWN = 4  # differences listed in a message
MAX_LENGTH = 60  # characters of a value
SAME_START = 20  # characters of an equal beginning of two long texts that are shown

Difference = tuple[str, Any, Any]  # dotted key, old value, new value


def show_differences(old: Any, new: Any) -> str:
    """The first few keys that differ, with both values: `seed: 1 → 2; scorer.tasks[math].weight: absent → 2`."""
    found = list(differences(old, new))
    shown = [": ".join(filter(None, (key, " → ".join(_values(*values))))) for key, *values in found[:MAX_SHOWN]]
    return "; ".join(shown) + (f" and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else "")


def differences(old: Any, new: Any, key: str = "") -> Iterator[Difference]:
    """The innermost keys with different values; entries of a list that have names are compared by name."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}, key=str):
            yield from differences(old.get(name, ABSENT), new.get(name, ABSENT), f"{key}.{name}" if key else str(name))
    elif (before := _by_name(old)) is not None and (after := _by_name(new)) is not None:
        yield from _of_entries(before, after, key)
    elif _is_list_of_mappings(old) and _is_list_of_mappings(new) and len(old) == len(new):
        for place, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{key}[{place}]")
    elif old != new:
        yield key, old, new


def _of_entries(old: Mapping[str, Any], new: Mapping[str, Any], key: str) -> Iterator[Difference]:
    for name in dict.fromkeys((*old, *new)):
        yield from differences(old.get(name, ABSENT), new.get(name, ABSENT), f"{key}[{name}]")
    if old.keys() == new.keys() and list(old) != list(new):
        yield f"the order of {key}", list(old), list(new)


def _by_name(entries: Any) -> dict[str, Any] | None:
    """Name → entry, for a list of mappings with names, of which some may be written as their name alone."""
    if (
        not isinstance(entries, Sequence)
        or isinstance(entries, str)
        or not any(isinstance(e, Mapping) for e in entries)
    ):
        return None
    named = [{"name": entry} if isinstance(entry, str) else entry for entry in entries]
    names = [entry.get("name") if isinstance(entry, Mapping) else None for entry in named]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        return None
    return dict(zip(map(str, names), named, strict=True))


def _is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, Mapping) for entry in value)


def _values(old: Any, new: Any) -> tuple[str, str]:
    """Both values on a line each; of two long texts with an equal beginning, the parts from the first difference on."""
    texts = [_text(old), _text(new)]
    equal = next((n for n, pair in enumerate(zip(*texts, strict=False)) if pair[0] != pair[1]), min(map(len, texts)))
    if max(map(len, texts)) > MAX_LENGTH and equal > SAME_START:
        texts = [f"…{text[equal - SAME_START // 2 :]}" for text in texts]
    first, second = (text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…" for text in texts)
    return first, second


def _text(value: Any) -> str:
    if value is ABSENT:
        return "absent"
    if isinstance(value, str):
        return " ".join(value.split()) or "''"
    return as_yaml(value) if value is None or isinstance(value, bool) else " ".join(str(value).split())
