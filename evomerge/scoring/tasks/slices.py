"""Which items a slice takes and how they are dealt into chunks: pure, seeded, one task at a time."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np

from evomerge.errors import TaskError
from evomerge.scoring import SLICES, Chunk

SliceSize = int | Literal["all"] | tuple[int | str, ...]
"""What an experiment asks of a slice: a count, `all` that the others leave, or explicit document ids."""


@dataclass(frozen=True)
class Doc:
    """A document that a slice may take; `content` is equal for documents that ask a model the same thing."""

    item: str
    content: str


def draw(
    task: str, pools: Mapping[str, Sequence[Doc]], wanted: Mapping[str, SliceSize], seed: int
) -> dict[str, tuple[str, ...]]:
    """Item ids per slice, disjoint in ids and in content.

    A draw depends on the seed, the task's name and its documents, on no other task. Explicit ids are placed
    first, then counts, then `all`; a drawn slice passes over whatever repeats the content of another slice.
    """
    taken: dict[str, tuple[Doc, ...]] = {}
    for slice_ in sorted(SLICES, key=lambda name: _turn(wanted[name])):
        want = wanted[slice_]
        if isinstance(want, tuple):
            docs = _explicit(task, slice_, want, pools[slice_])
            _refuse_overlap(task, slice_, docs, taken)
        else:
            docs = _drawn(task, slice_, want, _free(task, slice_, pools[slice_], taken, seed))
        taken[slice_] = docs
    return {slice_: tuple(doc.item for doc in taken[slice_]) for slice_ in SLICES}


def _turn(want: SliceSize) -> int:
    if isinstance(want, tuple):
        return 0
    return 2 if want == "all" else 1


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
    """`task/leaf/3` may be written in full, as `leaf/3`, or as 3 where that is clear."""
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


def _free(task: str, slice_: str, pool: Sequence[Doc], taken: Mapping[str, tuple[Doc, ...]], seed: int) -> list[Doc]:
    """The documents whose content no other slice holds, in this slice's own random order."""
    blocked = {doc.content for docs in taken.values() for doc in docs}
    digest = hashlib.sha256(f"{seed}/{task}/{slice_}".encode()).digest()
    order = np.random.default_rng(int.from_bytes(digest)).permutation(len(pool))
    return [pool[i] for i in order if pool[i].content not in blocked]


def _drawn(task: str, slice_: str, want: int | Literal["all"], free: Sequence[Doc]) -> tuple[Doc, ...]:
    if not free:
        raise TaskError(f"task '{task}': slice {slice_} is empty: the others hold everything; make them smaller")
    if want == "all":
        return tuple(free)
    if want > len(free):
        raise TaskError(
            f"task '{task}': {slice_} asks for {want} items, but only {len(free)} documents are not in "
            f"another slice, or the same as one there; ask for fewer, or for all"
        )
    return tuple(free[:want])


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def into_chunks(
    slice_: str, items: Mapping[str, Sequence[str]], chunk_items: int, rates: Sequence[float] | None = None
) -> tuple[Chunk, ...]:
    """Equal chunks of at most `chunk_items`, in each of which every task, or other stratum, has about its share.

    The items of each are spread evenly over one line, which is then cut into equal pieces; those of a higher rate are
    closer together, and used up earlier.
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
