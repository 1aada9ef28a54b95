"""Loading of lm-eval tasks by name, from a folder or inline, with the overrides of `lm_eval.simple_evaluate`."""

import copy
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lm_eval.tasks
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task
from lm_eval.config.task import TaskConfig
from lm_eval.tasks import TaskManager

from evomerge.errors import TaskError
from evomerge.hub import offline_reason
from evomerge.schema import as_yaml
from evomerge.scoring.tasks.aggregates import name_of
from evomerge.scoring.tasks.csv_text import read_as_text, read_numbers_as_places
from evomerge.scoring.tasks.task_entries import TaskEntry, suggestion
from evomerge.scoring.tasks.task_errors import foreign_metrics, load_problem, raising_task_error
from evomerge.scoring.tasks.unrendered import refuse_unrendered

NAMED = re.compile(r"""^[ -]*(?:["']?(?:task|group|tag)["']?:|-)[ \[]*["']?([^\s"'#\[\],]+)""", re.MULTILINE)
NO_TASKS = (".py", ".pyc", ".md", ".txt", ".json", ".jsonl", ".csv", ".tsv")
SPEC_KEYS = tuple(field.name for field in dataclasses.fields(TaskConfig))


class TaskLoader:
    """Finds tasks inline, then in `include_path`, then among those of lm-eval, whose index takes seconds to load."""

    def __init__(self, include_path: str | None = None) -> None:
        if include_path is not None and not Path(include_path).is_dir():
            raise TaskError(f"include_path '{include_path}' is not a folder; point it at the task YAML files")
        self._include_path = include_path
        self._mine = TaskManager(include_path=include_path, include_defaults=False)
        self._all: TaskManager | None = None

    def load(self, entry: TaskEntry) -> dict[str, Task]:
        """Name → task: one for a task, all members for a group or a tag; TaskError if they cannot be loaded."""
        target = _inline(entry) if entry.spec is not None else entry.name
        manager = self._mine if entry.spec is not None else self._manager(entry.name)
        offline = None if _is_local(entry) else offline_reason()
        try:
            tasks: dict[str, Task] = manager.load([target])["tasks"]
            if entry.spec is not None and entry.spec.get("dataset_path") == "csv":
                read_numbers_as_places(tasks[entry.name])
        except Exception as error:  # lm-eval and its data loaders may raise anything
            raise TaskError(f"task '{entry.name}' {load_problem(error, entry, offline)}") from error
        if not tasks:
            raise TaskError(f"task '{entry.name}' is a group without tasks; list its tasks in its YAML file")
        for name, task in tasks.items():
            _refuse_unsuited(label(entry, name), task)
            refuse_unrendered(label(entry, name), task)
        return tasks

    def load_spec(self, entry: TaskEntry) -> str | dict[str, Any]:
        """What `lm_eval.simple_evaluate` takes as a task: its name, or the complete spec; TaskError as in `load`."""
        tasks = self.load(entry)
        if entry.spec is None:
            return entry.name
        return {**_inline(entry), "doc_to_target": tasks[entry.name].config.doc_to_target}

    @property
    def manager(self) -> TaskManager:
        """The task index that contains all tasks loaded by name."""
        return self._all or self._mine

    def _manager(self, name: str) -> TaskManager:
        if _complete(self._mine.task_index, name):
            return self._mine
        if self._all is None:
            if name not in self._mine.task_index and name not in names_in_task_files():
                raise self._unknown(name, names_in_task_files())
            self._all = TaskManager(include_path=self._include_path)
        if name not in self._all.task_index:
            raise self._unknown(name, self._all.all_tasks)
        return self._all

    def _unknown(self, name: str, known: Iterable[str]) -> TaskError:
        place = f" or in {self._include_path} (a YAML file that cannot be read is passed over)"
        return TaskError(
            f"task '{name}' is not in lm-eval{place if self._include_path else ''}, and it has no spec; "
            "a file of questions is {name: NAME, file: FILE}"
            f"{suggestion(name, tuple(known))}"
        )


@cache
def names_in_task_files() -> frozenset[str]:
    """A superset of the names of lm-eval's tasks, groups and tags, from a text search of its files.

    The search takes a second, loading the index twenty. Files with any suffix are read, as task files may include them.
    """
    files = (path for path in Path(lm_eval.tasks.__file__).parent.rglob("*") if path.suffix not in NO_TASKS)
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file())
    return frozenset(word for text in texts for word in NAMED.findall(text))


def label(entry: TaskEntry, leaf: str) -> str:
    """The name of a task in messages: the entry, followed by the member if the entry is a group."""
    return entry.name if leaf == entry.name else f"{entry.name}: {leaf}"


def _complete(index: Mapping[str, Any], name: str) -> bool:
    """Whether a name is in this index, with all members if it is a group."""
    if name not in index:
        return False
    members = (index[name].cfg or {}).get("task")
    if not isinstance(members, list):
        return True
    names = [member if isinstance(member, str) else member.get("task") for member in members]
    defined = [isinstance(member, Mapping) and "dataset_path" in member for member in members]
    return all(
        inline or not isinstance(member, str) or _complete(index, member)
        for member, inline in zip(names, defined, strict=True)
    )


def _inline(entry: TaskEntry) -> dict[str, Any]:
    spec = copy.deepcopy(dict(entry.spec or {}))
    for key in spec:
        if key not in SPEC_KEYS:
            raise TaskError(f"task '{entry.name}': unknown key '{as_yaml(key)}' in spec{suggestion(key, SPEC_KEYS)}")
    if not spec.get("dataset_path") and not spec.get("custom_dataset"):
        raise TaskError(f"task '{entry.name}': spec has no dataset_path; write json, csv or a data set's id")
    return {**read_as_text(spec), "task": entry.name}


def _is_local(entry: TaskEntry) -> bool:
    """Whether a spec needs no hub: its data are files or made by a function, and its metrics are lm-eval's."""
    spec = entry.spec or {}
    has_data = "custom_dataset" in spec or str(spec.get("dataset_path")) in _PACKAGED_DATASETS_MODULES
    return has_data and not foreign_metrics(entry)


def _refuse_unsuited(name: str, task: Task) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise TaskError(f"task '{name}' runs code that the model writes, which evomerge never does; drop it")
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(f"task '{name}' needs images or audio, and only text models are scored; drop it")


def override(
    name: str, task: Task, entry: TaskEntry, num_fewshot: int | None, gen_kwargs: Mapping[str, Any] | None
) -> None:
    """Apply the number of shots and generation arguments as `simple_evaluate` does; those of the entry take precedence.

    A task that fixes num_fewshot to 0 keeps it. As in lm-eval, a global number is ignored; a number in the task's own
    entry raises TaskError.
    """
    arguments = {**(gen_kwargs or {}), **(entry.gen_kwargs or {})}
    if task.get_config("output_type") == "generate_until" and arguments:
        task.set_config(key="generation_kwargs", value=copy.deepcopy(arguments), update=True)
    elif entry.gen_kwargs:
        raise TaskError(f"task '{name}' generates nothing; drop its gen_kwargs")
    shots = num_fewshot if entry.num_fewshot is None else entry.num_fewshot
    fixed = task.get_config("num_fewshot")
    if fixed == 0 and entry.num_fewshot:
        raise TaskError(f"task '{name}' fixes num_fewshot to 0, and lm-eval keeps it; drop num_fewshot")
    if fixed != 0 and (shots is not None or fixed is None):
        task.set_config(key="num_fewshot", value=shots or 0)


@dataclasses.dataclass(frozen=True)
class ChosenMetric:
    """A metric; `sign` is -1 if lower is better, `aggregation` the name in lm-eval's registry if it is no mean."""

    name: str
    sign: float
    aggregation: str | None


def choose_metric(name: str, task: Task, metric: str | None, own_aggregate: bool = False) -> ChosenMetric:
    """The metric of a task, by default its first.

    TaskError for a metric whose aggregation is not in lm-eval's registry, unless the entry has an aggregate of its own.
    """
    with raising_task_error(f"task '{name}' has a metric_list that cannot be read", "give a list of {metric: NAME, …}"):
        aggregations = dict(task.aggregation())
    if not aggregations:
        raise TaskError(f"task '{name}': its metric_list is empty; name a metric, or drop the key for lm-eval's own")
    metric = metric or next(iter(aggregations))
    if metric not in aggregations:
        raise TaskError(f"task '{name}': no metric '{as_yaml(metric)}'; it has {', '.join(map(as_yaml, aggregations))}")
    aggregation = None
    if aggregations[metric] is not mean and not own_aggregate:
        aggregation = name_of(aggregations[metric])
        if aggregation is None:
            means = [other for other, function in aggregations.items() if function is mean]
            remedy = f"use {' or '.join(map(as_yaml, means))}, or " if means else ""
            problem = f"task '{name}': metric '{as_yaml(metric)}' is no mean over items, nor in lm-eval's registry"
            raise TaskError(f"{problem}; {remedy}name its function: aggregate: path/to/file.py:function")
    better = task.higher_is_better().get(metric)
    if better not in (True, False, None):
        raise TaskError(f"task '{name}': higher_is_better={as_yaml(better)} of metric '{metric}': give true or false")
    return ChosenMetric(metric, -1.0 if better is False else 1.0, aggregation)


def choose_filter(name: str, task: Task, filter_name: str | None) -> Any:
    """The filter pipeline with this name, or the task's first by default."""
    pipelines: Sequence[Any] = task._filters
    if filter_name is None:
        return pipelines[0]
    for pipeline in pipelines:
        if pipeline.name == filter_name:
            return pipeline
    known = ", ".join(pipeline.name for pipeline in pipelines)
    raise TaskError(f"task '{name}': no filter '{as_yaml(filter_name)}'; it has {known}")
