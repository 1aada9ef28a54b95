"""The `scorer` section of an experiment and its task list, validated and read into plain values without lm-eval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from evomerge.errors import ConfigError
from evomerge.schema import EMPTY, Count, Location, Natural, OneOf, Range, Text, check_value
from evomerge.scoring import SLICES
from evomerge.scoring.tasks.own_functions import FORM, LIKE
from evomerge.scoring.tasks.own_task import file_spec
from evomerge.scoring.tasks.question_columns import KINDS
from evomerge.scoring.tasks.slices import SliceSize
from evomerge.suggest import did_you_mean

Name = Annotated[str, Text(r"[^/\s]([^/]{0,198}[^/\s])?", "a name of one line without '/'")]
Function = Annotated[str, Text(FORM, LIKE)]
GENERATIONS = ("auto", "loop", "vllm")
Size = Count | Annotated[str, OneOf(("all",))] | Sequence[int | str]  # a count, what the others leave, or document ids


@dataclass(frozen=True, kw_only=True)
class Slices:
    """The number of items of each slice; None takes the size from `scorer.slices`."""

    search: Size | None = None
    select: Size | None = None
    holdout: Size | None = None


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Slices):
    """The keys of a task or group in an experiment."""

    name: Name
    file: Location | None = None
    rows: Annotated[str, OneOf(KINDS)] | None = None
    spec: Mapping[str, Any] | None = None
    weight: Annotated[float, Range(0, 1e6, without=(0,))] = 1.0
    metric: str | None = None
    score: Function | None = None
    aggregate: Function | None = None
    higher_is_better: bool | None = None
    filter: str | None = None
    splits: Mapping[Annotated[str, OneOf(SLICES)], str] | None = None
    num_fewshot: Natural | None = None
    gen_kwargs: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """The `scorer` section: tasks, the sizes of their slices, and keywords of `lm_eval.simple_evaluate`.

    As in the `lm_eval` command, `fewshot_as_multiturn` is by default set if a chat template is applied.
    """

    tasks: Sequence[Any]
    name: Annotated[str, OneOf(("lm_eval",))] = "lm_eval"
    slices: Mapping[str, Any] = field(default_factory=dict)
    chunk_items: Count = 16
    include_path: Location | None = None
    num_fewshot: Natural | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool | None = None
    system_instruction: str | None = None
    gen_kwargs: Mapping[str, Any] | None = None
    generation: Annotated[str, OneOf(GENERATIONS)] = "auto"

    def check(self) -> None:
        """ConfigError for the first wrong key of a task or slice."""
        _ = self.entries

    @cached_property
    def entries(self) -> tuple["TaskEntry", ...]:
        """The tasks of the section; ConfigError names the key that is wrong."""
        return read_tasks(self.tasks, self.slices, "scorer.tasks")


@dataclass(frozen=True)
class TaskEntry:
    """One task or group of an experiment; None means lm-eval's own setting."""

    name: str
    slice_sizes: Mapping[str, SliceSize]
    weight: float = 1.0
    spec: Mapping[str, Any] | None = None
    metric: str | None = None
    score: str | None = None
    aggregate: str | None = None
    higher_is_better: bool | None = None
    filter: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    num_fewshot: int | None = None
    gen_kwargs: Mapping[str, Any] | None = None


def read_tasks(
    tasks: Sequence[str | Mapping[str, Any]], slices: Mapping[str, Any] = EMPTY, where: str = "tasks"
) -> tuple[TaskEntry, ...]:
    """The entries of a task list, with default sizes from `slices`; ConfigError names the wrong key, below `where`."""
    check_value(tasks, Sequence[Name | TaskConfig], where)
    check_value(slices, Slices, where.removesuffix("tasks") + "slices")
    if not tasks:
        raise ConfigError(f"{where} is empty; name at least one task")
    entries = tuple(
        _entry(TaskConfig(**({"name": raw} if isinstance(raw, str) else raw)), slices, f"{where}.{place}")
        for place, raw in enumerate(tasks)
    )
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where}: '{name}' is listed twice; drop one, or give it another name and a spec")
    for place, raw in enumerate(tasks):
        if isinstance(raw, Mapping) and "spec" in raw and not raw["spec"]:
            raise ConfigError(f"{where}.{place}.spec is empty; drop it where lm-eval has the task, or say what it is")
    return entries


def _entry(given: TaskConfig, slices: Mapping[str, Any], where: str) -> TaskEntry:
    if given.score and given.metric:
        raise ConfigError(f"{where}: score={given.score} replaces the metric; drop metric={given.metric}, or score")
    if given.higher_is_better is not None and not given.score and not given.aggregate:
        raise ConfigError(f"{where}.higher_is_better belongs to score or aggregate; lm-eval knows it for its metrics")
    if given.rows and not given.file:
        raise ConfigError(f"{where}.rows={given.rows} chooses rows of a file; give file, or drop rows")
    return TaskEntry(
        name=given.name,
        slice_sizes={slice_: _slice_size(given, slices, slice_, where) for slice_ in SLICES},
        weight=float(given.weight),
        spec={**file_spec(Path(given.file), given.rows), **(given.spec or {})} if given.file else given.spec,
        metric=given.metric,
        score=given.score,
        aggregate=given.aggregate,
        higher_is_better=given.higher_is_better,
        filter=given.filter,
        splits=dict(given.splits or {}),
        num_fewshot=given.num_fewshot,
        gen_kwargs=given.gen_kwargs,
    )


def _slice_size(given: TaskConfig, slices: Mapping[str, Any], slice_: str, where: str) -> SliceSize:
    task_size = getattr(given, slice_)
    size = slices.get(slice_) if task_size is None else task_size
    if size is None:
        raise ConfigError(f"{where}: no size for slice {slice_}; set {slice_} in the task or in slices")
    if isinstance(size, int | str):
        return "all" if isinstance(size, str) else size
    if not size:
        raise ConfigError(f"{where}: slice {slice_} is empty; give it a count, all, or a list of document ids")
    return tuple(size)


def suggestion(word: str, known: Sequence[str]) -> str:
    """The end of an error message: the nearest known word, or else all known words if they are few."""
    if hint := did_you_mean(word, known):
        return hint
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 20 else ""
