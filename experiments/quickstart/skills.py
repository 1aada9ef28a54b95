"""The generated skills of the quickstart family: prompts, right answers, lazy answers, multiple-choice items.

Knows nothing about models. Every skill has a finite set of inputs, split once into those that become task
items and those that training may draw from, so no prompt of a task is ever seen in training.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations

LETTERS = "abcdefghijkl"
DIGITS = "123456789"
CHOICES = 4

WORDS = tuple("".join(letters) for letters in permutations(LETTERS, 3))
NUMBERS = tuple("".join(digits) for digits in permutations(DIGITS, 4))

Item = dict[str, str | int | list[str]]


@dataclass(frozen=True)
class Skill:
    """A function from an input to its answer, with the wrong answers a task offers beside it.

    The lazy answer is what the base prefers although it knows the right one; it is always among the choices.
    """

    name: str
    inputs: tuple[str, ...]
    answer: Callable[[str], str]
    wrong: Callable[[str], Sequence[str]]
    lazy: Callable[[str], str] | None = None

    def prompt(self, text: str) -> str:
        """`shift abc =`: the answer follows after one space."""
        return f"{self.name} {text} ="


def shifted(word: str) -> str:
    """Every letter replaced by the next one of the alphabet a to l, which is a cycle."""
    return "".join(LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in word)


@cache
def near_misses(word: str) -> tuple[str, ...]:
    """Words that differ in one letter or by one exchange of two letters."""
    unused = [letter for letter in LETTERS if letter not in word]
    replaced = [word[:i] + letter + word[i + 1 :] for i in range(len(word)) for letter in unused]
    exchanged = [word[1] + word[0] + word[2], word[0] + word[2] + word[1], word[2] + word[1] + word[0]]
    return tuple(exchanged * 3 + replaced)  # three times, so that exchanges are not rare among the choices


SKILLS = {
    skill.name: skill
    for skill in (
        Skill("copy", WORDS, str, near_misses),
        Skill("shift", WORDS, shifted, lambda word: near_misses(shifted(word)), lazy=str),
        Skill("last", WORDS, lambda word: word[-1], lambda word: LETTERS, lazy=lambda word: word[0]),
        Skill("max", NUMBERS, max, lambda number: DIGITS, lazy=lambda number: "0"),
    )
}


def split(skill: Skill, held_out: int, seed: int) -> tuple[list[str], list[str]]:
    """The inputs of the task's items and, disjoint from them, the inputs training draws from."""
    inputs = list(skill.inputs)
    random.Random(f"{seed}/{skill.name}/split").shuffle(inputs)
    return inputs[:held_out], inputs[held_out:]


def choices(skill: Skill, text: str, rng: random.Random) -> list[str]:
    """The right answer, the lazy one, and near misses, in random order."""
    found = [skill.answer(text)]
    if skill.lazy is not None:
        found.append(skill.lazy(text))
    while len(found) < CHOICES:
        other = rng.choice(skill.wrong(text))
        if other not in found:
            found.append(other)
    rng.shuffle(found)
    return found


def items(skill: Skill, inputs: Sequence[str], seed: int) -> list[Item]:
    """One multiple-choice item per input; `gold` is the index of the right choice."""
    rng = random.Random(f"{seed}/{skill.name}/items")
    offered = [choices(skill, text, rng) for text in inputs]
    return [
        {"query": skill.prompt(text), "choices": found, "gold": found.index(skill.answer(text))}
        for text, found in zip(inputs, offered, strict=True)
    ]
