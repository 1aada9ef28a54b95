"""One leaf task frozen: every request of a split built once, with the prompts that a full lm-eval run builds.

lm-eval draws few-shot examples from one random stream per task, so a prompt depends on which documents come
before it. All documents are therefore built together, from lm-eval's own seed, and picked by id afterwards.
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
from evomerge.schema import shown
from evomerge.scoring import SEED, Answer, Counts, Request, count_answers, text_of
from evomerge.scoring.tasks.task_errors import blaming


@dataclass(frozen=True)
class Prompting:
    """How every task's prompts are dressed; the names are those of `lm_eval.simple_evaluate`."""

    system_instruction: str | None = None
    chat_template: Callable[..., str] | None = None
    fewshot_as_multiturn: bool = False

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `Task.build_all_requests`."""
        return {
            "system_instruction": self.system_instruction,
            "apply_chat_template": self.chat_template is not None,
            "fewshot_as_multiturn": self.fewshot_as_multiturn,
            "chat_template": self.chat_template,
        }


@dataclass(frozen=True)
class FrozenDoc:
    """A document's instances in request order; they are templates that nobody writes to."""

    instances: tuple[Instance, ...]
    content: str

    def requests(self) -> tuple[Request, ...]:
        """The requests, without the document."""
        return tuple(Request(i.request_type, tuple(i.args), i.repeats or 1) for i in self.instances)

    def digest(self) -> str:
        """A hash of what is asked and of what is expected."""
        asked = repr([request.arguments for request in self.requests()])
        return _hash(asked + json.dumps(self.instances[0].doc, default=str, sort_keys=True))


def fewshot_split(task: Task) -> str | None:
    """The split that few-shot examples come from; None without them, or where the task brings examples of its own."""
    config, shots = task.config, task.fewshot_cfg
    if not config.num_fewshot or shots.samples:
        return None
    chosen = (shots.split, config.training_split, config.validation_split, config.test_split)
    return next((str(split) for split in chosen if split), None)


def own_split(task: Task) -> str:
    """The split that lm-eval itself scores; `docs` for a task class that does not say."""
    config = task.config
    return str((config.test_split if task.has_test_docs() else config.validation_split) or "docs")


def freeze(name: str, task: Task, split: str, prompting: Prompting) -> dict[int, FrozenDoc]:
    """All documents of a split by their row in it; TaskError when the task cannot build them."""
    with _scoring(name, task, split):
        task.set_fewshot_seed(seed=SEED)
        try:
            with blaming(f"task '{name}' cannot build its prompts", "check its templates"):
                task.build_all_requests(**prompting.arguments())
                return {doc_id: _frozen(task, instances) for doc_id, instances in _by_doc(task.instances).items()}
        finally:
            task._instances = None


@contextlib.contextmanager
def _scoring(name: str, task: Task, split: str) -> Iterator[None]:
    """Let a task score another split than its own; a document is never its own few-shot example there."""
    if split == own_split(task):
        yield
        return
    if not isinstance(task, ConfigurableTask):
        raise TaskError(f"task '{name}' is a Python class that fixes its split; drop splits")
    if split not in task.dataset:
        raise TaskError(f"task '{name}': no split '{shown(split)}'; its data has {', '.join(task.dataset)}")
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
    """A hash of the requests without few-shot examples, which differ between two equal documents."""
    if task.config.num_fewshot:
        doc = instances[0].doc
        context = task.fewshot_context(doc, num_fewshot=0)
        bare = task.construct_requests(doc=doc, ctx=context, metadata=instances[0].metadata)
        instances = bare if isinstance(bare, list) else [bare]
    return _hash(repr(sorted(repr(instance.args) for instance in instances)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Leaf:
    """How the documents of one task are graded: one metric after one filter pipeline."""

    name: str
    task: Task
    metric: str
    sign: float
    pipeline: Any

    def grade(self, docs: Mapping[str, FrozenDoc], responses: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        """Score per item from raw responses; works on copies, so it may be called any number of times."""
        filled = {item: _filled(doc, responses[item]) for item, doc in docs.items()}
        with blaming(f"task '{self.name}': its filter fails", "check filter_list"):
            self.pipeline.apply([instance for instances in filled.values() for instance in instances])
        return {item: self._score(item, instances) for item, instances in filled.items()}

    def answers(self, docs: Mapping[str, FrozenDoc], responses: Mapping[str, Sequence[Any]]) -> Counts:
        """Counts of what was generated for these documents."""
        pairs = [
            (instance.doc, response if isinstance(response, list) else [response])
            for item, doc in docs.items()
            for instance, response in zip(doc.instances, responses[item], strict=True)
        ]
        generated = [(doc, own) for doc, own in pairs if isinstance(own[0], Answer)]
        return count_answers([own for _, own in generated], [doc for doc, _ in generated], self.pipeline.filters)

    def _score(self, item: str, instances: Sequence[Instance]) -> float:
        answers = [instance.filtered_resps[self.pipeline.name] for instance in instances]
        where = f"item {item}: metric '{self.metric}' cannot be had from doc_to_target and the answer"
        with blaming(where, "check doc_to_target, doc_to_choice and metric_list"):
            metrics = self.task.process_results(instances[0].doc, answers)
        if self.metric not in metrics:
            raise TaskError(f"item {item} has no value of metric '{self.metric}', only of {', '.join(metrics)}")
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
            resps=text_of(list(response) if (i.repeats or 1) > 1 else [response]),
        )
        for i, response in zip(doc.instances, responses, strict=True)
    ]
