"""The generated skills of the selecting family: prompts, right answers, lazy answers, multiple-choice items.

Every skill has a finite set of inputs, split once into those of task items and those that training may draw from.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

LETTERS, DIGITS, CHOICES = "abcdefghijkl", "123456789", 4
WORDS = tuple("".join(letters) for letters in permutations(LETTERS, 3))
NUMBERS = tuple("".join(digits) for digits in permutations(DIGITS, 4))

Item = dict[str, str | int | list[str]]
Function = Callable[[str], str]


@dataclass(frozen=True)
class Skill:
    """A function from an input to its answer, and the lazy answer that the base prefers."""

    name: str
    inputs: tuple[str, ...]
    answer: Function
    lazy: Function

    def prompt(self, text: str) -> str:
        """`shift abc =`: the answer follows after one space."""
        return f"{self.name} {text} ="


def shifted(word: str) -> str:
    """Every letter replaced by the next one of the alphabet a to l, which is a cycle."""
    return "".join(LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in word)


SKILLS = {
    skill.name: skill
    for skill in (
        Skill("copy", WORDS, str, str),
        Skill("shift", WORDS, shifted, str),
        Skill("back", WORDS, lambda word: word[::-1], str),
        Skill("last", WORDS, lambda word: word[-1], lambda word: word[0]),
        Skill("max", NUMBERS, max, lambda number: "0"),
        Skill("min", NUMBERS, min, lambda number: "0"),
        Skill("mid", WORDS, lambda word: word[1], lambda word: word[0]),
        Skill("end", NUMBERS, lambda number: number[-1], lambda number: number[0]),
    )
}
USEFUL = ("shift", "back", "last", "max", "min")
UNRELATED = ("mid", "end")  # skills without a task
TASKS = ("copy", *USEFUL)


def split(skill: Skill, held_out: int, seed: int) -> tuple[list[str], list[str]]:
    """The inputs of the task's items and, disjoint from them, the inputs of training."""
    inputs = list(skill.inputs)
    random.Random(f"{seed}/{skill.name}/split").shuffle(inputs)
    return inputs[:held_out], inputs[held_out:]


def items(skill: Skill, inputs: Sequence[str], seed: int) -> list[Item]:
    """One multiple-choice item per input: the right answer, the lazy one, and answers to other inputs."""
    rng, found = random.Random(f"{seed}/{skill.name}/items"), []
    for text in inputs:
        offered = [skill.answer(text)]
        if skill.lazy(text) not in offered:
            offered.append(skill.lazy(text))
        while len(offered) < CHOICES:
            other = skill.answer("".join(rng.sample(text, len(text))) if rng.random() < 0.5 else rng.choice(inputs))
            offered += [other] * (other not in offered)
        rng.shuffle(offered)
        found.append({"query": skill.prompt(text), "choices": offered, "gold": offered.index(skill.answer(text))})
    return found
