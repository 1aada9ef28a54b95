"""What a user asks for in one command: base, experts, tasks, limits and a folder; checked without a large library."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.autoconfig.sizes import refuse_few
from evomerge.errors import ConfigError, RunError
from evomerge.experiment import read_preset
from evomerge.models import ADAPTER_CONFIG_FILE
from evomerge.parsing import parse_yaml
from evomerge.paths import LEDGER
from evomerge.rules import RulesConfig
from evomerge.schema import Label, Location, Seed, build, check_value
from evomerge.scoring.tasks import QUESTION_SUFFIXES, count_questions, kinds_of_rows, read_tasks
from evomerge.screening import ScreenConfig
from evomerge.space import RESERVED
from evomerge.submission import read_rows as read_inputs

SLICE_OF_A_CHECK = {"search": 1, "select": 1, "holdout": "all"}


@dataclass(frozen=True)
class Request:
    """Base, experts by label, and task entries; `hours` and `items` limit the search, `out` is the run's folder.

    `rules` are the keys of the section of that name; empty without rules. More experts than `most` are screened.
    `inputs` are CSV files to predict for a submission.
    """

    base: str
    experts: Mapping[str, str]
    tasks: tuple[Mapping[str, Any], ...]
    hours: float | None = None
    items: int | None = None
    out: Path | None = None
    seed: int = 1
    rules: Mapping[str, Any] = field(default_factory=dict)
    most: int | None = None
    inputs: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        base: str,
        experts: str | Sequence[str] | Mapping[str, str],
        tasks: str | Sequence[str | Mapping[str, Any]],
        *,
        hours: float | None = None,
        items: int | None = None,
        out: str | Path | None = None,
        seed: int = 1,
        rules: str | None = None,
        most: int | None = None,
        inputs: Sequence[str | Path] = (),
    ) -> "Request":
        """A checked request; a task is a name of lm-eval, the path of a file of questions, or a task entry.

        `rules` is the name of a preset of conf/rules/; without `hours`, the run takes those of the rules, or a part of
        them where predictions and a pack are made elsewhere. `inputs` are predicted for such a pack.
        ConfigError for no expert, no task, a limit that is no positive number, or a file that cannot be used.
        """
        base, named = _located(base), _named(base, experts)
        if (Path(base) / ADAPTER_CONFIG_FILE).is_file():
            raise ConfigError(f"{base}: is an adapter; the first model is the base that the experts were trained from")
        check_value(seed, Seed, "seed")
        if most is not None:
            build(ScreenConfig, {"most": most}, "screen")
        if not named:
            raise ConfigError("no expert: give one or more checkpoints or adapters that were fine-tuned from the base")
        if not tasks:
            raise ConfigError("no task: add --tasks NAME,… (of lm-eval) or --for FILE.csv (your own questions)")
        for name, value in (("hours", hours), ("items", items)):
            if value is not None and not (isinstance(value, int | float) and 0 < value < 1e9):
                raise ConfigError(f"{name}={value}: give a number above 0")
        entries = _entries([tasks] if isinstance(tasks, str | Mapping) else tasks)
        read_tasks(entries, SLICE_OF_A_CHECK)  # a file of questions that cannot be used is reported here
        refuse_few(
            {task["name"]: count_questions(Path(task["file"]), task.get("rows")) for task in entries if "file" in task}
        )
        folder = None if out is None else _folder(out)
        section = {} if rules is None else read_preset("rules", rules)
        contest = build(RulesConfig, section, "rules")
        hours = hours if hours is not None else contest.search_hours
        return cls(base, named, entries, hours, items, folder, seed, section, most, _inputs(inputs, contest))

    @property
    def submission(self) -> dict[str, Any]:
        """The section `submission` of the experiment; empty where the rules ask for none."""
        if not self.rules.get("starter_kit"):
            return {}
        return {"pack": True, "inputs": list(self.inputs)}

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

    def refuse_other_search(self, path: Path) -> None:
        """RunError where an experiment file, or a search in its folder, belongs to another request."""
        if not path.exists():
            if (path.parent / LEDGER).exists():
                raise RunError(f"{path.parent}: holds another search; give another folder with --out")
            return
        try:
            found = parse_yaml(path.read_text(encoding="utf-8"))
            tasks = [task if isinstance(task, Mapping) else {"name": task} for task in found["scorer"]["tasks"]]
            theirs = Request(found["base"], found["experts"], tuple(tasks), seed=found["seed"]).identity()
            theirs["most"] = (found.get("screen") or {}).get("most")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            theirs = {}
        ours = self.identity()
        if self.most is not None:  # else the file's number stays
            ours["most"] = self.most if len(self.experts) > self.most else None
        if different := [key for key, value in ours.items() if theirs.get(key) != value]:
            raise RunError(f"{path}: another search, with other {', '.join(different)}; give another folder with --out")


def _inputs(paths: Sequence[str | Path], contest: RulesConfig) -> tuple[str, ...]:
    """The files to predict; TaskError for a wrong row, before the models are opened."""
    if paths and not contest.starter_kit:
        raise ConfigError("inputs are predicted for a contest's submission; name its rules, such as --rules lmc2024")
    for path in paths:
        read_inputs(Path(path))
    return tuple(str(Path(path).resolve()) for path in paths)


def _named(base: str, experts: str | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Label → expert; ConfigError for an expert that is given twice, or that is the base."""
    check_value(experts, str | Sequence[Location] | Mapping[Label, Location], "experts")
    if isinstance(experts, Mapping):
        return {label: _located(path) for label, path in experts.items()}
    paths = [_located(path) for path in ([experts] if isinstance(experts, str) else experts)]
    return dict(zip(_labels(_located(base), paths), paths, strict=True))


def _located(path: str) -> str:
    """A local folder by its absolute path, so that it is found from every folder; a hub id as it is."""
    check_value(path, Location, "a model")
    place = Path(path).expanduser()
    if place.exists():
        return str(place.resolve())
    if path.startswith(("/", "./", "../", "~")):
        raise ConfigError(f"{path}: no such folder; give a folder or a hub id of the form owner/name")
    return path


def _folder(out: str | Path) -> Path:
    if not isinstance(out, str | Path):
        raise ConfigError(f"out={out!r}: give the path of a folder")
    folder = Path(out)
    nearest = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise ConfigError(f"{folder}: cannot be written to; give another folder with --out")
    return folder


def _entries(tasks: Sequence[str | Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Task entries with a name each; of two files with one name, the second gets a number."""
    found: list[dict[str, Any]] = []
    for entry in (one for task in tasks for one in _split(_entry(task))):
        taken = {other["name"] for other in found}
        if "file" in entry and entry["name"] in taken:
            entry["name"] = next(f"{entry['name']}-{n}" for n in range(2, 10**6) if f"{entry['name']}-{n}" not in taken)
        found.append(entry)
    return tuple(found)


def _entry(task: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(task, str | Path | Mapping):
        raise ConfigError(f"task {task!r}: give a name of lm-eval, the path of a file of questions, or a task entry")
    task = str(task) if isinstance(task, Path) else task
    if isinstance(task, Mapping):
        path = task.get("file")
        given = dict(task) | ({"file": str(Path(path).resolve())} if isinstance(path, str) else {})
        return {"name": _file_name(path)} | given if isinstance(path, str) else given
    if task.lower().endswith(QUESTION_SUFFIXES):
        return {"name": _file_name(task), "file": str(Path(task).resolve())}
    return {"name": task}


def _split(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """A task for each kind of rows, where a file has several kinds and the entry names none."""
    path = entry.get("file")
    kinds = kinds_of_rows(Path(path)) if isinstance(path, str) and "rows" not in entry else []
    if len(kinds) < 2:
        return [entry]
    return [{**entry, "name": f"{entry['name']}-{kind}", "rows": kind} for kind in kinds]


def _file_name(path: str) -> str:
    """A task's name from that of its file."""
    return _plain(Path(path).stem) or "questions"


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
