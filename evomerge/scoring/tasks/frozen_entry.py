"""The frozen documents of one entry of the task list, and the pools from which its slices are drawn."""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from evomerge.errors import TaskError
from evomerge.scoring import SLICES
from evomerge.scoring.tasks.dry_run import check_grading
from evomerge.scoring.tasks.frozen_docs import FrozenDoc, Prompting, TaskGrader, fewshot_split, freeze, own_split
from evomerge.scoring.tasks.loading import label, override
from evomerge.scoring.tasks.slices import Doc
from evomerge.scoring.tasks.task_entries import TaskEntry

log = logging.getLogger(__name__)

HASH_DIGITS = 16  # of a content hash, in a ledger's header


class FrozenEntry:
    """The frozen tasks of one entry, and the pool of documents from which each slice is drawn."""

    def __init__(
        self,
        entry: TaskEntry,
        tasks: Mapping[str, Any],
        prompting: Prompting,
        num_fewshot: int | None,
        gen_kwargs: Mapping[str, Any] | None,
        make: Callable[[str, Any, TaskEntry, str | None], TaskGrader],
    ) -> None:
        self.docs: dict[str, tuple[TaskGrader, FrozenDoc]] = {}
        self.pools: dict[str, list[Doc]] = {slice_: [] for slice_ in SLICES}
        metric = entry.metric
        for name, task in tasks.items():
            shown = label(entry, name)
            override(shown, task, entry, num_fewshot, gen_kwargs)
            grader = make(shown, task, entry, metric)
            metric = metric or (None if entry.score else grader.metric)
            if grader.aggregate and len(tasks) > 1:
                raise TaskError(f"task '{entry.name}' is a group, and its metric is corpus-level; list its tasks")
            self._add(entry, grader, name, prompting)

    def contents_of(self, used: Collection[str]) -> set[str]:
        """The contents of the documents that `used` names by id or by hash."""
        named = ((item, doc) for item, (_, doc) in self.docs.items())
        return {doc.content for item, doc in named if item in used or short_hash(doc) in used}

    def _add(self, entry: TaskEntry, grader: TaskGrader, name: str, prompting: Prompting) -> None:
        default = own_split(grader.task)
        splits = {slice_: entry.splits.get(slice_, default) for slice_ in SLICES}
        if fewshot_split(grader.task) in splits.values():
            log.warning(
                "task %s: its few-shot examples come from the split that it is scored on, so prompts of one slice show "
                "answers of another; give the task a fewshot_split of its own",
                grader.name,
            )
        for split in dict.fromkeys(splits.values()):
            prefix = _prefix(entry.name, name, split, default)
            rows = freeze(grader.name, grader.task, split, prompting)
            docs = {f"{prefix}/{row}": doc for row, doc in rows.items()}
            check_grading(grader, docs, inline=entry.spec is not None)
            self.docs |= {item: (grader, doc) for item, doc in docs.items()}
            for slice_, slice_split in splits.items():
                if slice_split == split:
                    self.pools[slice_] += [Doc(item, doc.content) for item, doc in docs.items()]


def short_hash(doc: FrozenDoc) -> str:
    """The hash of a document's content as a ledger's header has it."""
    return doc.content[:HASH_DIGITS]


def _prefix(entry: str, leaf: str, split: str, default: str) -> str:
    if leaf == entry:
        return f"{entry}/{split}"
    return f"{entry}/{leaf}" if split == default else f"{entry}/{leaf}/{split}"
