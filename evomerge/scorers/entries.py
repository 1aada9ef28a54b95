"""The `tasks` list of an experiment, read strictly into plain values; nothing of lm-eval is needed here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.errors import TaskError
from evomerge.scorers import SLICES
from evomerge.scorers.slices import Wanted
from evomerge.suggest import nearest

KEYS = ("name", "spec", "weight", "metric", "filter", *SLICES, "splits", "num_fewshot", "gen_kwargs")


@dataclass(frozen=True)
class Entry:
    """One task or group of an experiment; None means what lm-eval itself would do."""

    name: str
    wanted: Mapping[str, Wanted]
    weight: float = 1.0
    spec: Mapping[str, Any] | None = None
    metric: str | None = None
    filter: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    num_fewshot: int | None = None
    gen_kwargs: Mapping[str, Any] | None = None


def read_entries(tasks: Sequence[str | Mapping[str, Any]], slices: Mapping[str, Any] | None) -> tuple[Entry, ...]:
    """Entries with the sizes in `slices` as defaults; TaskError names the entry and the key that is wrong."""
    defaults = dict(slices or {})
    _known(defaults, SLICES, "slices")
    if not tasks:
        raise TaskError("no tasks; list at least one under tasks")
    entries = tuple(_entry({"name": raw} if isinstance(raw, str) else raw, defaults) for raw in tasks)
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise TaskError(f"task '{name}' is listed twice; drop one, or give it another name and a spec")
    return entries


def _entry(raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> Entry:
    if not isinstance(raw, Mapping):
        raise TaskError(f"a task entry is a name or a mapping with a name, not {raw!r}")
    name = raw.get("name")
    if not isinstance(name, str) or not name.strip() or "/" in name:
        raise TaskError(f"task name {name!r}: write a non-empty text without '/'")
    where = f"task '{name}'"
    _known(raw, KEYS, where)
    splits = _mapping(raw, "splits", where) or {}
    _known(splits, SLICES, f"{where}: splits")
    return Entry(
        name=name,
        wanted={slice_: _wanted(_first(raw.get(slice_), defaults.get(slice_)), slice_, where) for slice_ in SLICES},
        weight=_weight(raw.get("weight", 1.0), where),
        spec=_mapping(raw, "spec", where),
        metric=_text(raw, "metric", where),
        filter=_text(raw, "filter", where),
        splits={slice_: str(split) for slice_, split in splits.items()},
        num_fewshot=_shots(raw.get("num_fewshot"), where),
        gen_kwargs=_mapping(raw, "gen_kwargs", where),
    )


def _known(raw: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in raw:
        if key not in keys:
            raise TaskError(f"{where}: unknown key '{key}'{did_you_mean(str(key), keys)}")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The end of an error line: the nearest known word, or all of them when they are few."""
    if hint := nearest(word, known):
        return hint
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 20 else ""


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value


def _wanted(raw: Any, slice_: str, where: str) -> Wanted:
    if raw is None:
        raise TaskError(f"{where}: no size for slice {slice_}; set {slice_} in the task or in slices")
    if isinstance(raw, int) and not isinstance(raw, bool) and raw > 0:
        return raw
    if raw == "all":
        return "all"
    if isinstance(raw, Sequence) and not isinstance(raw, str) and raw:
        if all(isinstance(id_, int | str) and not isinstance(id_, bool) for id_ in raw):
            return tuple(raw)
    elif raw == 0 or (isinstance(raw, Sequence) and not raw):
        raise TaskError(f"{where}: slice {slice_} is empty; give it a count, all, or a list of document ids")
    raise TaskError(f"{where}: {slice_}={raw!r} is not a count above 0, all, or a list of document ids")


def _weight(raw: Any, where: str) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw) or raw <= 0:
        raise TaskError(f"{where}: weight={raw!r} is not a number above 0; drop the task to leave it out")
    return float(raw)


def _shots(raw: Any, where: str) -> int | None:
    if raw is not None and (isinstance(raw, bool) or not isinstance(raw, int) or raw < 0):
        raise TaskError(f"{where}: num_fewshot={raw!r} is not a whole number from 0 up")
    return raw


def _text(raw: Mapping[str, Any], key: str, where: str) -> str | None:
    value = raw.get(key)
    if value is not None and not isinstance(value, str):
        raise TaskError(f"{where}: {key}={value!r} is not a name")
    return value


def _mapping(raw: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any] | None:
    value = raw.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise TaskError(f"{where}: {key}={value!r} is not a mapping")
    return value
