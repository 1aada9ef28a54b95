"""What a user asks for in one command: base, experts, tasks, limits and a folder; checked without a large library."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError
from evomerge.experiment import read_preset
from evomerge.rules import RulesConfig
from evomerge.schema import Location, Seed, build, check_value
from evomerge.scoring.tasks import QUESTION_SUFFIXES, read_tasks
from evomerge.space import RESERVED

SLICE_OF_A_CHECK = {"search": 1, "select": 1, "holdout": "all"}


@dataclass(frozen=True)
class Request:
    """Base, experts by label, and task entries; `hours` and `items` limit the search, `out` is the run's folder.

    `rules` are the keys of the section of that name; empty without rules.
    """

    base: str
    experts: Mapping[str, str]
    tasks: tuple[Mapping[str, Any], ...]
    hours: float | None = None
    items: int | None = None
    out: Path | None = None
    seed: int = 1
    rules: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        base: str,
        experts: Sequence[str] | Mapping[str, str],
        tasks: Sequence[str | Mapping[str, Any]],
        *,
        hours: float | None = None,
        items: int | None = None,
        out: str | Path | None = None,
        seed: int = 1,
        rules: str | None = None,
    ) -> "Request":
        """A checked request; a task is a name of lm-eval, the path of a file of questions, or a task entry.

        `rules` is the name of a preset of conf/rules/; without `hours`, the search takes a part of its hours.
        ConfigError for no expert, no task, a limit that is no positive number, or a file that cannot be used.
        """
        named = (
            dict(experts) if isinstance(experts, Mapping) else dict(zip(_labels(base, experts), experts, strict=True))
        )
        check_value([base, *named.values()], Sequence[Location], "models")
        check_value(seed, Seed, "seed")
        if not named:
            raise ConfigError("no expert: give one or more checkpoints or adapters that were fine-tuned from the base")
        if not tasks:
            raise ConfigError("no task: add --tasks NAME,… (of lm-eval) or --for FILE.csv (your own questions)")
        for name, value in (("hours", hours), ("items", items)):
            if value is not None and not (isinstance(value, int | float) and 0 < value < 1e9):
                raise ConfigError(f"{name}={value}: give a number above 0")
        entries = _entries(tasks)
        read_tasks(entries, SLICE_OF_A_CHECK)  # a file of questions that cannot be used is reported here
        folder = None if out is None else Path(out)
        section = {} if rules is None else read_preset("rules", rules)
        hours = hours if hours is not None else build(RulesConfig, section, "rules").search_hours
        return cls(base, named, entries, hours, items, folder, seed, section)

    @property
    def name(self) -> str:
        """The name of the run: that of its folder, or one made of the models' names."""
        if self.out is not None:
            return self.out.resolve().name
        return _plain("+".join([_last(self.base), *self.experts]))[:100]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.out or Path("runs") / self.name

    def identity(self) -> dict[str, Any]:
        """What makes it another search: everything but the limits and the folder."""
        return {
            "base": self.base,
            "experts": dict(self.experts),
            "tasks": [task["name"] for task in self.tasks],
            "files": [task["file"] for task in self.tasks if "file" in task],
            "seed": self.seed,
        }


def _entries(tasks: Sequence[str | Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Task entries with a name each; of two files with one name, the second gets a number."""
    found: list[dict[str, Any]] = []
    for task in tasks:
        entry = _entry(task)
        taken = {other["name"] for other in found}
        if "file" in entry and entry["name"] in taken:
            entry["name"] = next(f"{entry['name']}-{n}" for n in range(2, 10**6) if f"{entry['name']}-{n}" not in taken)
        found.append(entry)
    return tuple(found)


def _entry(task: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(task, Mapping):
        path = task.get("file")
        given = dict(task) | ({"file": str(Path(path).resolve())} if isinstance(path, str) else {})
        return {"name": _plain(Path(path).stem)} | given if isinstance(path, str) else given
    if task.lower().endswith(QUESTION_SUFFIXES):
        return {"name": _plain(Path(task).stem), "file": str(Path(task).resolve())}
    return {"name": task}


def _labels(base: str, paths: Sequence[str]) -> list[str]:
    """A short label for each expert: the last part of its path, with as many parts before it as tell them apart."""
    if repeated := next((path for path in paths if paths.count(path) > 1), None):
        raise ConfigError(f"{repeated}: given twice; give each expert once")
    if base in paths:
        raise ConfigError(
            f"{base}: base and expert are the same; give the model that the experts were trained from first"
        )
    for parts in range(1, 8):
        labels = [_plain(_last(path, parts)) for path in paths]
        labels = [f"{label}-expert" if label in (*RESERVED, "") else label for label in labels]
        if len(set(labels)) == len(labels):
            return labels
    return [f"expert{number}" for number in range(1, len(paths) + 1)]


def _last(path: str, parts: int = 1) -> str:
    """The last parts of a path or hub id, without a revision."""
    place = Path(path)
    pieces = (place.resolve() if place.exists() else Path(path.partition("@")[0])).parts
    return "-".join(pieces[-parts:])


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.")
