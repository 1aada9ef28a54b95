"""The drawing of items for slices, and their division into chunks: pure functions of the seed, one task at a time."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np

from evomerge.errors import TaskError
from evomerge.scoring import SLICES, Chunk

SliceSize = int | Literal["all"] | tuple[int | str, ...]
"""The size of a slice: a count, `all` documents that other slices leave, or explicit document ids."""


@dataclass(frozen=True)
class Doc:
    """A document that can be drawn; `content` is equal for documents with the same requests."""

    item: str
    content: str


def draw(
    task: str,
    pools: Mapping[str, Sequence[Doc]],
    sizes: Mapping[str, SliceSize],
    seed: int,
    used: Collection[str] = frozenset(),
) -> dict[str, tuple[str, ...]]:
    """Slice → item ids, disjoint in ids and in content; `pools` holds the documents that each slice may take.

    A draw depends on the seed, the task's name and its documents, not on other tasks. Slices with explicit ids come
    first, then those with counts, then those with `all`. A drawn slice skips documents whose content is in another one.
    `used` holds contents by which earlier runs have chosen recipes: `select` and `holdout` skip them too, and are drawn
    before `search`, which may hold them.
    """
    taken: dict[str, tuple[Doc, ...]] = {}
    for slice_ in sorted(SLICES, key=lambda name: (_priority(sizes[name]), bool(used) and name == "search")):
        size, barred = sizes[slice_], frozenset() if slice_ == "search" else used
        if isinstance(size, tuple):
            docs = _explicit(task, slice_, size, pools[slice_])
            _refuse_overlap(task, slice_, docs, taken)
            _refuse_used(task, slice_, docs, barred)
        else:
            free = _free(task, slice_, pools[slice_], taken, seed)
            unused = [doc for doc in free if doc.content not in barred]
            docs = _drawn(task, slice_, size, unused, len(free) - len(unused))
        taken[slice_] = docs
    return {slice_: tuple(doc.item for doc in taken[slice_]) for slice_ in SLICES}


def _priority(size: SliceSize) -> int:
    if isinstance(size, tuple):
        return 0
    return 2 if size == "all" else 1


def _explicit(task: str, slice_: str, ids: tuple[int | str, ...], pool: Sequence[Doc]) -> tuple[Doc, ...]:
    named: dict[str, list[Doc]] = {}
    for doc in pool:
        for name in _names(doc.item):
            named.setdefault(name, []).append(doc)
    chosen = [_named(task, slice_, str(id_), named) for id_ in ids]
    repeated = sorted({doc.item for doc in chosen if chosen.count(doc) > 1})
    if repeated:
        raise TaskError(f"task '{task}': {slice_} lists {_some(repeated)} twice; list every document once")
    return tuple(chosen)


def _names(item: str) -> set[str]:
    """The names by which an experiment may list the item `task/leaf/3`: in full, as `leaf/3`, or as `3`."""
    return {item, item.partition("/")[2], item.rpartition("/")[2]}


def _named(task: str, slice_: str, id_: str, named: Mapping[str, list[Doc]]) -> Doc:
    docs = named.get(id_, [])
    if len(docs) == 1:
        return docs[0]
    if docs:
        choice = _some([doc.item.partition("/")[2] for doc in docs])
        raise TaskError(f"task '{task}': {slice_} id {id_} could be {choice}; write it so")
    last = max((int(name) for name in named if name.isdigit()), default=0)
    raise TaskError(f"task '{task}': {slice_} names document {id_}, which is not there; ids are 0 to {last}")


def _refuse_overlap(task: str, slice_: str, docs: Iterable[Doc], taken: Mapping[str, tuple[Doc, ...]]) -> None:
    docs = tuple(docs)
    for other, others in taken.items():
        shared = [doc.item for doc in docs if doc in others]
        if shared:
            raise TaskError(
                f"task '{task}': {_some(shared)} in both {other} and {slice_}; an item belongs to one slice"
            )
        contents = {doc.content: doc.item for doc in others}
        twins = [f"{contents[doc.content]} = {doc.item}" for doc in docs if doc.content in contents]
        if twins:
            raise TaskError(
                f"task '{task}': {other} and {slice_} ask the same in {_some(twins)}; drop one of each pair"
            )


def _refuse_used(task: str, slice_: str, docs: Iterable[Doc], used: Collection[str]) -> None:
    if items := [doc.item for doc in docs if doc.content in used]:
        raise TaskError(
            f"task '{task}': a run of init has searched or selected on {_some(items)}, so {slice_} cannot hold it; "
            f"list others, or begin without init"
        )


def _free(task: str, slice_: str, pool: Sequence[Doc], taken: Mapping[str, tuple[Doc, ...]], seed: int) -> list[Doc]:
    """The documents whose content is in no other slice, in a random order that depends on seed, task and slice.

    Of equal documents one is drawn: two would count as independent evidence.
    """
    blocked = {doc.content for docs in taken.values() for doc in docs}
    digest = hashlib.sha256(f"{seed}/{task}/{slice_}".encode()).digest()
    order = np.random.default_rng(int.from_bytes(digest)).permutation(len(pool))
    found: dict[str, Doc] = {}
    for i in order:
        if pool[i].content not in blocked:
            found.setdefault(pool[i].content, pool[i])
    return list(found.values())


def _drawn(task: str, slice_: str, size: int | Literal["all"], free: Sequence[Doc], used: int = 0) -> tuple[Doc, ...]:
    if used and (not free or (size != "all" and size > len(free))):
        raise TaskError(
            f"task '{task}': {slice_} asks for {size} items, but runs of init have searched or selected on {used} of "
            f"the documents and leave {len(free)}; ask for fewer, or begin without init"
        )
    if not free:
        raise TaskError(f"task '{task}': slice {slice_} is empty: the others hold everything; make them smaller")
    if size == "all":
        return tuple(free)
    if size > len(free):
        raise TaskError(
            f"task '{task}': {slice_} asks for {size} items, but only {len(free)} documents are not in "
            f"another slice, or the same as one there; ask for fewer, or for all"
        )
    return tuple(free[:size])


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def make_chunks(
    slice_: str, items: Mapping[str, Sequence[str]], chunk_items: int, rates: Sequence[float] | None = None
) -> tuple[Chunk, ...]:
    """Chunks of nearly equal size, at most `chunk_items`, in which every task or other stratum has about its share.

    `items` maps each stratum to its items, which are spread evenly over a line; the line is then cut into equal pieces.
    Items of a stratum with a higher rate are closer together, so they are used up earlier.
    """
    line = sorted(
        ((rank + 0.5) / (len(ids) * rate), order, item)
        for order, (ids, rate) in enumerate(zip(items.values(), rates or [1.0] * len(items), strict=True))
        for rank, item in enumerate(ids)
    )
    count = ceil(len(line) / chunk_items)
    cuts = [len(line) * i // count for i in range(count + 1)]
    return tuple(
        Chunk(f"{slice_}/{i}", slice_, tuple(item for _, _, item in line[cuts[i] : cuts[i + 1]])) for i in range(count)
    )
