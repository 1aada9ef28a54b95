"""Reads the YAML and JSON files of a run's folder, which people copy and edit; a RunError names the file."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, RunError
from evomerge.parsing import one_line, parse_json, parse_yaml
from evomerge.paths import CONFIG, FLIPS, RESULT
from evomerge.schema import check_value

Number = float | None
OPEN = Mapping[str, Any] | None
CONFIG_TYPES: dict[str, Any] = {
    "name": str,
    "experts": Mapping[str, str],
    **dict.fromkeys(("space", "optimizer", "scorer", "model", "budget", "race", "objective"), OPEN),
}
RESULT_TYPES: dict[str, Any] = {  # of the entries that are read; an earlier version may have written fewer
    "best_baseline": str,
    "verdict": str,
    "fingerprint": str,
    "difference": Number,
    "layers": int | None,
    "winner": Mapping[str, str],
    "winner_is": Sequence[Mapping[str, str]],
    "rows": Sequence[Mapping[str, Any]],
    "comparisons": Sequence[Mapping[str, Any]],
    "interval": Mapping[str, Number] | None,
    "gap": Mapping[str, Number],
    "floors": Mapping[str, float],
    "ceilings": Mapping[str, float],
    "task_warnings": Sequence[str],
    "truncated_more": Sequence[str],
    "counts": Mapping[str, int | None],
    "seconds": Mapping[str, Number | Mapping[str, float]],
    "versions": Mapping[str, str | None],
    **dict.fromkeys(("machine", "rules", "screen", "front", "simpler", "sensitivity", "routers", "submission"), OPEN),
}
ROW_TYPES: dict[str, Any] = {
    "label": str,
    "key": str,
    "role": str,
    "scores": Mapping[str, Number],
    "tasks": Mapping[str, Number],
    "lengths": Mapping[str, Number],
    "answers": Mapping[str, int] | None,
    "difference": Number,
    "interval": Mapping[str, Number],
    "p": Number,
    "corrected": Number,
    "test": str,
    "verdict": str,
}


def read_config_file(folder: Path) -> dict[str, Any]:
    """The contents of a run's config.yaml, whose sections are mappings."""
    config = _read(folder / CONFIG, parse_yaml)
    try:
        _check(config, CONFIG_TYPES, "")
        check_value((config.get("budget") or {}).get("gpu_gb"), Number, "budget.gpu_gb")
    except ConfigError as error:
        raise _damaged(folder / CONFIG, str(error)) from None
    return config


def read_result(folder: Path) -> dict[str, Any]:
    """The contents of a run's result.json; a score that is missing may be NaN or null."""
    result = _read(folder / RESULT, parse_json)
    plain = _without_nan(result)
    try:
        _check(plain, RESULT_TYPES, "")
        for name in ("rows", "comparisons"):
            for place, row in enumerate(plain.get(name, ())):
                _check(row, ROW_TYPES, f"{name}.{place}.")
    except ConfigError as error:
        raise _damaged(folder / RESULT, str(error)) from None
    return result


def read_item_texts(folder: Path) -> dict[str, list[str]]:
    """Item → its text in lines, from a run's flips.json; empty for a run without the file."""
    if not (folder / FLIPS).is_file():
        return {}
    texts = _read(folder / FLIPS, parse_json)
    try:
        check_value(texts, Mapping[str, Sequence[str]], "texts")
    except ConfigError as error:
        raise _damaged(folder / FLIPS, str(error)) from None
    return texts


@contextmanager
def refuse_misfits(folder: Path) -> Iterator[None]:
    """A RunError in place of the exceptions that code raises for a file that lacks an entry another one names."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, StopIteration) as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise RunError(f"{folder}: its files do not fit together ({what}); repeat the run's command") from error


def _read(path: Path, parse: Any) -> dict[str, Any]:
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; give the folder of a run") from None
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(found, dict):
        raise _damaged(path, "it is no mapping")
    return found


def _damaged(path: Path, reason: str) -> RunError:
    return RunError(f"{path}: damaged ({reason}); repeat the run's command")


def _check(section: Mapping[str, Any], types: Mapping[str, Any], where: str) -> None:
    for key, hint in types.items():
        if key in section:
            check_value(section[key], hint, f"{where}{key}")


def _without_nan(value: Any) -> Any:
    """The value with 0 in place of numbers that are not finite, which a result may hold."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return 0.0 if isinstance(value, float) and not math.isfinite(value) else value
