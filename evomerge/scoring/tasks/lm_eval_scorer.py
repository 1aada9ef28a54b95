"""The lm-eval scorer: tasks are loaded and frozen once in the driver, divided into slices, and graded per item."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evomerge.errors import TaskError
from evomerge.scoring import (
    SLICES,
    Chunk,
    Counts,
    ItemLoss,
    Plan,
    Request,
    add_counts,
    compiled_templates,
    lm_eval_seeds,
    silence_lm_eval,
    task_of,
)
from evomerge.scoring.tasks.chat_template import chat_template
from evomerge.scoring.tasks.frozen_docs import FrozenDoc, Prompting, TaskGrader
from evomerge.scoring.tasks.frozen_entry import FrozenEntry, short_hash
from evomerge.scoring.tasks.graders import TokenCounter, make_grader, texts_of
from evomerge.scoring.tasks.item_losses import chance_of, item_loss
from evomerge.scoring.tasks.loading import TaskLoader
from evomerge.scoring.tasks.own_functions import OwnFunction, load_function
from evomerge.scoring.tasks.shown_item import show_item
from evomerge.scoring.tasks.slices import draw, make_chunks
from evomerge.scoring.tasks.task_entries import ScorerConfig, TaskEntry

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LMEvalScorer:
    """Gives each item the score that it has in `lm_eval.simple_evaluate` of the whole task.

    An item id is `TASK/SPLIT/ROW`. In a group it is `TASK/LEAF/ROW`, or `TASK/LEAF/SPLIT/ROW` if `splits` names another
    split than lm-eval's. Metrics for which lower is better are negated. `used` holds ids or content hashes of documents
    that `select` and `holdout` must not hold; `withheld` counts the documents of the tasks that it matches.
    """

    def __init__(
        self,
        config: ScorerConfig,
        tokenizer: "PreTrainedTokenizerBase | None",
        seed: int,
        used: Collection[str] = frozenset(),
    ) -> None:
        if config.fewshot_as_multiturn and not config.apply_chat_template:
            raise TaskError("fewshot_as_multiturn needs apply_chat_template=true; set both, or neither")
        multiturn = config.apply_chat_template if config.fewshot_as_multiturn is None else config.fewshot_as_multiturn
        template = chat_template(tokenizer) if config.apply_chat_template else None
        prompting = Prompting(config.system_instruction, template, multiturn)
        self._chat = template is not None
        self._docs: dict[str, tuple[TaskGrader, FrozenDoc]] = {}
        drawn: dict[str, dict[str, tuple[str, ...]]] = {}
        self.withheld = 0
        self._counter = TokenCounter(tokenizer)
        self._functions: dict[str, OwnFunction] = {}
        with silence_lm_eval(), compiled_templates():
            loader = TaskLoader(config.include_path)
            for entry in config.entries:
                with lm_eval_seeds():
                    options = prompting, config.num_fewshot, config.gen_kwargs
                    frozen = FrozenEntry(entry, loader.load(entry), *options, self._grader)
                barred = frozen.contents_of(used)
                self.withheld += sum(doc.content in barred for _, doc in frozen.docs.values())
                drawn[entry.name] = draw(entry.name, frozen.pools, entry.slice_sizes, seed, barred)
                kept = [item for items in drawn[entry.name].values() for item in items]
                self._docs |= {item: frozen.docs[item] for item in kept}
        self._refuse_leaks(drawn)
        chunks = {
            slice_: make_chunks(
                slice_, {task: by_slice[slice_] for task, by_slice in drawn.items()}, config.chunk_items
            )
            for slice_ in SLICES
        }
        graders = {task_of(item): grader for item, (grader, _) in self._docs.items()}
        self.plan = Plan(
            chunks,
            {entry.name: entry.weight for entry in config.entries},
            {task: grader.aggregate for task, grader in graders.items() if grader.aggregate},
            tuple(task for task, grader in graders.items() if grader.task.OUTPUT_TYPE == "generate_until"),
        )

    @property
    def fingerprint(self) -> str:
        """A hash of every item's requests and document, which changes with the data or a prompt."""
        digest = hashlib.sha256()
        for slice_ in SLICES:
            for item in self.plan.items(slice_):
                digest.update(f"{slice_} {item} {self._docs[item][1].digest()}\n".encode())
        return digest.hexdigest()

    def contents(self, *slices: str) -> dict[str, str]:
        """Item → a hash of its content, for the items of the slices; equal for equal documents of any task or run."""
        return {item: short_hash(self._docs[item][1]) for slice_ in slices for item in self.plan.items(slice_)}

    @property
    def functions(self) -> dict[str, str]:
        """The scoring functions of the user's → hashes of their source files."""
        return {name: function.digest for name, function in sorted(self._functions.items())}

    def requests(self, chunk: Chunk) -> tuple[Request, ...]:
        """The requests of a chunk, item by item, in a fixed order."""
        return tuple(request for item in chunk.items for request in self._docs[item][1].requests())

    def grade(self, chunk: Chunk, responses: Sequence[Any]) -> dict[str, Any]:
        """Item → score from the raw responses to `requests(chunk)`; no state is kept between calls.

        An item of a task with a corpus-level metric has the value from which that is computed.

        CandidateError for a score that is not finite, TaskError for one that is not a number.
        """
        by_item = dict(self._by_item(chunk, responses))
        scores: dict[str, Any] = {}
        with compiled_templates():
            for grader, docs in self._by_grader(chunk):
                scores |= grader.grade(docs, by_item)
        return {item: scores[item] for item in chunk.items}

    def answers(self, chunk: Chunk, responses: Sequence[Any]) -> Counts:
        """Counts of the generated answers among the responses; empty if nothing was generated."""
        by_item = dict(self._by_item(chunk, responses))
        counts = add_counts([grader.answers(docs, by_item) for grader, docs in self._by_grader(chunk)])
        return counts if counts["answers"] else {}

    def lengths(self, chunk: Chunk, responses: Sequence[Any]) -> dict[str, float]:
        """Item → the mean length of its generated answers in tokens, for the items of tasks that generate."""
        found = {item: self._counter.of_answers(own) for item, own in self._by_item(chunk, responses) if texts_of(own)}
        return {item: sum(counts) / len(counts) for item, counts in found.items()}

    def loss(self, item: str) -> ItemLoss | None:
        """The differentiable loss of an item; None if its task has no right choice and no target text."""
        with compiled_templates():
            return item_loss(item, *self._docs[item], self._chat)

    def chances(self, slice_name: str) -> dict[str, float]:
        """Item → the probability that a guess is right, for the items of a slice that have choices and an accuracy."""
        docs = {item: self._docs[item] for item in self.plan.items(slice_name)}
        return {item: chance for item, pair in docs.items() if (chance := chance_of(*pair)) is not None}

    def show_item(self, item: str) -> list[str]:
        """The lines that describe an item as a model reads it."""
        with compiled_templates():
            return list(show_item(item, *self._docs[item], self._chat))

    def _grader(self, shown: str, task: Any, entry: TaskEntry, metric: str | None) -> TaskGrader:
        return make_grader(shown, task, entry, metric, self._counter, self._load)

    def _load(self, name: str, where: str) -> OwnFunction:
        """A function of the user's, read once for each scorer."""
        if name not in self._functions:
            self._functions[name] = load_function(name, where)
        return self._functions[name]

    def _by_grader(self, chunk: Chunk) -> Iterable[tuple[TaskGrader, dict[str, FrozenDoc]]]:
        by_grader: dict[str, tuple[TaskGrader, dict[str, FrozenDoc]]] = {}
        for item in chunk.items:
            grader, doc = self._docs[item]
            by_grader.setdefault(grader.name, (grader, {}))[1][item] = doc
        return by_grader.values()

    def _by_item(self, chunk: Chunk, responses: Sequence[Any]) -> Iterator[tuple[str, Sequence[Any]]]:
        counts = [len(self._docs[item][1].instances) for item in chunk.items]
        if sum(counts) != len(responses):
            raise ValueError(f"chunk {chunk.id} has {sum(counts)} requests, got {len(responses)} responses")
        start = 0
        for item, count in zip(chunk.items, counts, strict=True):
            yield item, responses[start : start + count]
            start += count

    def _refuse_leaks(self, drawn: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """TaskError if entries have equal documents in different slices, as holdout would not be unseen."""
        seen: dict[str, tuple[str, str]] = {}
        for by_slice in drawn.values():
            for slice_, items in by_slice.items():
                for item in items:
                    other, where = seen.setdefault(self._docs[item][1].content, (item, slice_))
                    if where != slice_:
                        raise TaskError(
                            f"{other} in {where} and {item} in {slice_} ask the same thing; drop one of the "
                            f"two tasks, or list document ids"
                        )
