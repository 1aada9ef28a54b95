"""Frozen documents of one task: the requests of a split, built once with the prompts of a full lm-eval run.

lm-eval draws few-shot examples from one random stream per task, so the prompt of a document depends on the documents
before it. All documents are therefore built together, from lm-eval's own seed, and selected by id afterwards.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask, Task

from evomerge.errors import CandidateError, TaskError
from evomerge.schema import as_yaml
from evomerge.scoring import SEED, Answer, Counts, Request, count_answers, response_text
from evomerge.scoring.tasks.aggregates import Aggregate, as_record
from evomerge.scoring.tasks.task_errors import raising_task_error


@dataclass(frozen=True)
class Prompting:
    """The prompt options of all tasks, named as in `lm_eval.simple_evaluate`."""

    system_instruction: str | None = None
    chat_template: Callable[..., str] | None = None
    fewshot_as_multiturn: bool = False

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `Task.build_all_requests`."""
        return {
            "system_instruction": self.system_instruction,
            "apply_chat_template": self.chat_template is not None,
            "fewshot_as_multiturn": self.fewshot_as_multiturn,
            "chat_template": self.chat_template,
        }


@dataclass(frozen=True)
class FrozenDoc:
    """A document's lm-eval instances in request order, which are never modified, and a hash of its content."""

    instances: tuple[Instance, ...]
    content: str

    def requests(self) -> tuple[Request, ...]:
        """The requests of the document, without the document itself."""
        return tuple(Request(i.request_type, tuple(i.args), i.repeats or 1) for i in self.instances)

    def digest(self) -> str:
        """A hash of the requests and of the document, which has the expected answer."""
        arguments = repr([request.arguments for request in self.requests()])
        return _hash(arguments + json.dumps(self.instances[0].doc, default=str, sort_keys=True))


def fewshot_split(task: Task) -> str | None:
    """The split of the few-shot examples; None if there are none, or if the task lists examples of its own."""
    config, shots = task.config, task.fewshot_cfg
    if not config.num_fewshot or shots.samples:
        return None
    chosen = (shots.split, config.training_split, config.validation_split, config.test_split)
    return next((str(split) for split in chosen if split), None)


def own_split(task: Task) -> str:
    """The split that lm-eval scores; `docs` for a task class that names none."""
    config = task.config
    return str((config.test_split if task.has_test_docs() else config.validation_split) or "docs")


def freeze(name: str, task: Task, split: str, prompting: Prompting) -> dict[int, FrozenDoc]:
    """Row → frozen document, for all documents of a split; TaskError if the task cannot build them."""
    with _scoring(name, task, split):
        task.set_fewshot_seed(seed=SEED)
        try:
            with raising_task_error(f"task '{name}' cannot build its prompts", "check its templates"):
                task.build_all_requests(**prompting.arguments())
                return {doc_id: _frozen(task, instances) for doc_id, instances in _by_doc(task.instances).items()}
        finally:
            task._instances = None


@contextlib.contextmanager
def _scoring(name: str, task: Task, split: str) -> Iterator[None]:
    """Within the context, the task scores another split than its own; few-shot examples keep their split."""
    if split == own_split(task):
        yield
        return
    if not isinstance(task, ConfigurableTask):
        raise TaskError(f"task '{name}' is a Python class that fixes its split; drop splits")
    if split not in task.dataset:
        raise TaskError(f"task '{name}': no split '{as_yaml(split)}'; its data has {', '.join(task.dataset)}")
    config, shots = task.config, task.fewshot_cfg
    before = config.test_split, shots.split
    shots.split = shots.split or config.training_split or config.validation_split or config.test_split
    config.test_split = split
    try:
        yield
    finally:
        config.test_split, shots.split = before


def _by_doc(instances: Sequence[Instance]) -> dict[int, list[Instance]]:
    docs: dict[int, list[Instance]] = {}
    for instance in instances:
        docs.setdefault(int(instance.doc_id), []).append(instance)
    return {doc_id: sorted(group, key=lambda instance: int(instance.idx)) for doc_id, group in docs.items()}


def _frozen(task: Task, instances: Sequence[Instance]) -> FrozenDoc:
    return FrozenDoc(tuple(instances), _content(task, instances))


def _content(task: Task, instances: Sequence[Instance]) -> str:
    """A hash of the requests without few-shot examples, so that equal documents have equal hashes."""
    if task.config.num_fewshot:
        doc = instances[0].doc
        context = task.fewshot_context(doc, num_fewshot=0)
        bare = task.construct_requests(doc=doc, ctx=context, metadata=instances[0].metadata)
        instances = bare if isinstance(bare, list) else [bare]
    return _hash(repr(sorted(repr(instance.args) for instance in instances)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class TaskGrader:
    """Grades the documents of one task: by one metric, after one filter pipeline; `sign` is -1 if lower is better.

    With an `aggregate`, the metric is corpus-level: an item has no score but the value that the aggregate takes.
    """

    name: str
    task: Task
    metric: str
    sign: float
    pipeline: Any
    aggregate: Aggregate | None

    def grade(self, docs: Mapping[str, FrozenDoc], responses: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Item → score, or value for the aggregate, from raw responses; the documents are not modified."""
        filtered = self.filtered(docs, responses)
        return {item: self._score(item, docs[item].instances[0].doc, answers) for item, answers in filtered.items()}

    def filtered(self, docs: Mapping[str, FrozenDoc], responses: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Item → one filtered response for each of its requests."""
        filled = {item: _filled(doc, responses[item]) for item, doc in docs.items()}
        with raising_task_error(f"task '{self.name}': its filter fails", "check filter_list"):
            self.pipeline.apply([instance for instances in filled.values() for instance in instances])
        name = self.pipeline.name
        return {item: [instance.filtered_resps[name] for instance in each] for item, each in filled.items()}

    def answers(self, docs: Mapping[str, FrozenDoc], responses: Mapping[str, Sequence[Any]]) -> Counts:
        """Counts of the answers generated for these documents."""
        pairs = [
            (instance.doc, response if isinstance(response, list) else [response])
            for item, doc in docs.items()
            for instance, response in zip(doc.instances, responses[item], strict=True)
        ]
        generated = [(doc, own) for doc, own in pairs if isinstance(own[0], Answer)]
        return count_answers([own for _, own in generated], [doc for doc, _ in generated], self.pipeline.filters)

    def _score(self, item: str, doc: Any, answers: list[Any]) -> Any:
        where = f"item {item}: metric '{self.metric}' cannot be had from doc_to_target and the answer"
        with raising_task_error(where, "check doc_to_target, doc_to_choice and metric_list"):
            metrics = self.task.process_results(doc, answers)
        if self.metric not in metrics:
            raise TaskError(f"item {item} has no value of metric '{self.metric}', only of {', '.join(metrics)}")
        if self.aggregate:
            return as_record(metrics[self.metric], item)
        try:
            value = float(metrics[self.metric])
        except (TypeError, ValueError):
            raise TaskError(
                f"item {item}: metric '{self.metric}' is {metrics[self.metric]!r}, not a number; use another"
            ) from None
        if not abs(value) < float("inf"):
            raise CandidateError(f"item {item}: metric '{self.metric}' is {value}; the merged weights are no use")
        return self.sign * value


def _filled(doc: FrozenDoc, responses: Sequence[Any]) -> list[Instance]:
    return [
        Instance(
            request_type=i.request_type,
            doc=i.doc,
            arguments=i.arguments,
            idx=i.idx,
            metadata=i.metadata,
            resps=response_text(list(response) if (i.repeats or 1) > 1 else [response]),
        )
        for i, response in zip(doc.instances, responses, strict=True)
    ]
