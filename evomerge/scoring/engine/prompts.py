"""Which prompts are decoded together: equal arguments, shared beginnings, and what a batch of them holds."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evomerge.scoring import SEED, Request
from evomerge.scoring.engine.generation_options import GenerationOptions

Ids = tuple[int, ...]

PREFIX = 32  # contexts that agree in so many tokens may be decoded behind one prefix …
SAVED = 512  # … where that saves so many tokens: a batch more costs as much


@dataclass(frozen=True)
class Prompt:
    """A distinct context and how many different answers it wants."""

    ids: Ids
    answers: int


def alike(requests: Sequence[Request]) -> Iterator[list[int]]:
    """The places of requests with equal generation arguments."""
    groups: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(json.dumps(request.arguments[1], sort_keys=True, default=repr), []).append(place)
    yield from groups.values()


def behind_prefixes(prompts: Sequence[Prompt]) -> Iterator[tuple[Ids, list[Prompt]]]:
    """Prompts that share a beginning that is worth a pass of its own, then all the others behind none."""
    found: dict[Ids, list[Prompt]] = {}
    for prompt in prompts:
        found.setdefault(prompt.ids[:PREFIX], []).append(prompt)
    others = []
    for members in found.values():
        first, last = (choose(member.ids for member in members) for choose in (min, max))
        room = min(len(member.ids) for member in members) - 1
        common = next((i for i in range(room) if first[i] != last[i]), room)  # of the two furthest apart, so of all
        if common * (len(members) - 1) >= SAVED:
            yield first[:common], members
        else:
            others += members
    if others:
        yield (), sorted(others, key=lambda prompt: -len(prompt.ids))


def cost(prompts: Sequence[Prompt], options: GenerationOptions) -> int:
    """Tokens that a batch holds at its end, if no answer stops before its limit; the first prompt is the longest."""
    return sum(prompt.answers for prompt in prompts) * (len(prompts[0].ids) + options.max_gen_toks)


def seed_of(ids: Ids, number: int) -> int:
    """The seed of a sampled answer: its prompt and its number among the repeats."""
    digest = hashlib.sha256(repr((SEED, ids, number)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
