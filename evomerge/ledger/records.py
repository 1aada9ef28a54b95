"""What the lines of a ledger record: trials of recipes, the search slice in other chunks, prices of slopes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.scoring import Chunk


@dataclass
class Trial:
    """The recorded results of one recipe: its scores or its failure, chunk by chunk."""

    scores: dict[str, list[Any]] = field(default_factory=dict)  # chunk id → one score per item, in chunk order
    errors: dict[str, str] = field(default_factory=dict)  # chunk id → why the candidate could not be scored on it
    answers: dict[str, dict[str, int]] = field(default_factory=dict)  # chunk id → counts of generated answers
    seconds: float = 0.0
    items: int = 0  # items that were scored, each counted when its chunk was scored
    lengths: dict[str, list[float | None]] = field(default_factory=dict)  # chunk id → tokens of each item's answers

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line of scores or of a failure; scores replace an earlier failure on the same chunk."""
        if "error" in line:
            self.errors[line["chunk"]] = line["error"]
            return
        self.scores[line["chunk"]] = line["scores"]
        self.items += len(line["scores"])
        if "tokens" in line:
            self.lengths[line["chunk"]] = line["tokens"]
        if "answers" in line:
            self.answers[line["chunk"]] = line["answers"]
        self.errors.pop(line["chunk"], None)
        self.seconds += line["seconds"]

    def error_on(self, chunks: Sequence[Chunk]) -> str | None:
        """Why the recipe could not be scored on one of these chunks, or None."""
        return next((self.errors[chunk.id] for chunk in chunks if chunk.id in self.errors), None)

    def regroup(self, old: Mapping[str, Sequence[str]], new: Mapping[str, Sequence[str]]) -> None:
        """Fill in the `new` chunks (id → items), which hold the same items as the `old` ones in another grouping.

        A failure on an old chunk becomes a failure on every new one. Scores are copied only if all old chunks are
        scored. Scores that a new chunk already has are kept.
        """
        failed = [self.errors[chunk] for chunk in old if chunk in self.errors]
        if failed:
            self.errors = {**{chunk: failed[0] for chunk in new if chunk not in self.scores}, **self.errors}
        elif all(chunk in self.scores for chunk in old):
            self.scores = {**_regrouped(self.scores, old, new), **self.scores}
            if all(chunk in self.lengths for chunk in old):
                self.lengths = {**_regrouped(self.lengths, old, new), **self.lengths}


def _regrouped(
    values: Mapping[str, list[Any]], old: Mapping[str, Sequence[str]], new: Mapping[str, Sequence[str]]
) -> dict[str, list[Any]]:
    """The values of the `new` chunks, from those of the `old` ones."""
    pairs = (zip(items, values[chunk], strict=True) for chunk, items in old.items())
    known = {item: value for chunk_pairs in pairs for item, value in chunk_pairs}
    return {chunk: [known[item] for item in items] for chunk, items in new.items()}


@dataclass(frozen=True)
class Learnt:
    """A result of an asynchronous search, in the order in which the optimizer learnt them.

    The candidate with this number was stopped with an estimated `score` after so many `chunks`, or had failed or was
    complete by then (None). `asked` is how many candidates had been proposed before.
    """

    number: int
    key: str
    chunks: int
    asked: int
    score: float | None = None


@dataclass(frozen=True)
class Rechunking:
    """The search slice in other chunks: chunk id → items, and item → the level that decided its place."""

    chunks: Mapping[str, Sequence[str]]
    levels: Mapping[str, str]


@dataclass(frozen=True)
class Cut:
    """A slice ends after its first `chunks` chunks, or a step is left out (0), because time was short.

    That holds for runs with this `budget`, or for all runs if it is None.
    """

    name: str
    chunks: int
    budget: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SlopePrice:
    """The cost of one item with its slope, in forward passes of the item, and the allowance when it was measured.

    The allowance of a budget in hours depends on the speed of the machine; a resumed search keeps the first one.
    """

    price: float
    allowance: float


Slope = tuple[list[float], list[float] | None]  # losses of items, and the derivative of each coordinate
