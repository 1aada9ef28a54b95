"""Grouping of prompts that are decoded together: by generation options and by shared prefixes; their batch sizes."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evomerge.scoring import SEED, Request
from evomerge.scoring.engine.generation_options import GenerationOptions

Ids = tuple[int, ...]

MIN_PREFIX = 32  # contexts with so many leading tokens in common may share a prefix …
MIN_SAVED = 512  # … if that saves so many tokens, which is the cost of one more batch


@dataclass(frozen=True)
class Prompt:
    """The token ids of a distinct context, and the number of answers to generate for it."""

    ids: Ids
    answers: int


def group_by_options(requests: Sequence[Request]) -> Iterator[list[int]]:
    """The indices of the requests, in groups with equal generation options."""
    groups: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(json.dumps(request.arguments[1], sort_keys=True, default=repr), []).append(place)
    yield from groups.values()


def group_by_prefix(prompts: Sequence[Prompt]) -> Iterator[tuple[Ids, list[Prompt]]]:
    """(prefix, prompts) for each shared prefix that saves enough tokens, then the other prompts with an empty prefix.

    The prompts must be sorted by length, longest first, and stay so in each group.
    """
    found: dict[Ids, list[Prompt]] = {}
    for prompt in prompts:
        found.setdefault(prompt.ids[:MIN_PREFIX], []).append(prompt)
    others = []
    for members in found.values():
        first, last = (choose(member.ids for member in members) for choose in (min, max))
        room = min(len(member.ids) for member in members) - 1
        # In lexicographic order, the first and the last have the shortest common beginning.
        common = next((i for i in range(room) if first[i] != last[i]), room)
        if common * (len(members) - 1) >= MIN_SAVED:
            yield first[:common], members
        else:
            others += members
    if others:
        yield (), sorted(others, key=lambda prompt: -len(prompt.ids))


def batch_tokens(prompts: Sequence[Prompt], options: GenerationOptions) -> int:
    """The number of tokens of a batch when all answers have their largest length; the first prompt is the longest."""
    return sum(prompt.answers for prompt in prompts) * (len(prompts[0].ids) + options.max_gen_toks)


def sample_seed(ids: Ids, number: int) -> int:
    """The seed of a sampled answer, from its prompt and its number among the repeats."""
    digest = hashlib.sha256(repr((SEED, ids, number)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
