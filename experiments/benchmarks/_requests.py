"""What the scoring benchmark asks: token pairs of a given shape, random or from a file of multiple-choice questions."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from evomerge.scoring.engine.tree import Pair, Tokens


@dataclass(frozen=True)
class Shape:
    """Items with answers to choose from, behind `shots` solved ones that all items share; lengths in tokens."""

    name: str
    items: int = 64
    choices: int = 4
    shots: int = 0
    context: int = 80
    answer: int = 8

    @property
    def label(self) -> str:
        """What a row is about."""
        return f"{self.name}, {self.items} items × {self.choices}, {self.shots}-shot"


SHAPES = {
    "reading": Shape("reading comprehension"),
    "few-shot": Shape("reading comprehension", shots=5),
    "letters": Shape("one-token choices", answer=1),
    "many": Shape("ten choices", choices=10, context=40, answer=4),
    "text": Shape("continuous text", items=16, choices=1, context=8, answer=400),
}


def growth(shape: Shape) -> list[Shape]:
    """The same question with more items, choices and shots, one of them at a time."""
    items = [replace(shape, items=count) for count in (16, 64, 256)]
    choices = [replace(shape, choices=count) for count in (2, 10)]
    return [*items, *choices, *(replace(shape, shots=count) for count in (1, 5))]


def random_pairs(shape: Shape, vocabulary: int) -> list[Pair]:
    """Pairs of random tokens whose lengths scatter by half around the shape's."""
    draw = random.Random(0)

    def tokens(length: int) -> Tokens:
        count = draw.randint((length + 1) // 2, length + length // 2)
        return tuple(draw.randrange(3, vocabulary) for _ in range(count))

    start = tuple(token for _ in range(shape.shots) for token in tokens(shape.context + shape.answer))
    contexts = [start + tokens(shape.context) for _ in range(shape.items)]
    return [Pair(context, tokens(shape.answer)) for context in contexts for _ in range(shape.choices)]


def file_pairs(path: Path, tokenizer: PreTrainedTokenizerBase, items: int, shots: int) -> list[Pair]:
    """Pairs of the first rows of a JSONL file of `query`, `choices`, `gold`; its last rows are the solved ones."""
    rows, start = _rows(path, shots)
    return [pair for row in rows[:items] for pair in _pairs(tokenizer, start + row["query"], row["choices"])]


def file_questions(path: Path, items: int, shots: int) -> list[str]:
    """The same rows as prompts."""
    rows, start = _rows(path, shots)
    return [start + row["query"] for row in rows[:items]]


def _rows(path: Path, shots: int) -> tuple[list[dict[str, Any]], str]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return rows, "".join(f"{row['query']} {row['choices'][row['gold']]}\n\n" for row in rows[len(rows) - shots :])


def _pairs(tokenizer: PreTrainedTokenizerBase, context: str, choices: Sequence[str]) -> list[Pair]:
    length = len(tokenizer(context).input_ids)
    whole = [tokenizer(f"{context} {choice}").input_ids for choice in choices]
    return [Pair(tuple(ids[:length]), tuple(ids[length:])) for ids in whole]
