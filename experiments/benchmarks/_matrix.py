"""Every item of a slice for many candidates of one family: metric and log-likelihoods, kept in a file."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _arena import Arena
from numpy.typing import NDArray

from evomerge.searching.stages import Candidate

Matrix = NDArray[np.float64]
KINDS = ("wide", "early", "late")
SPREADS = {"early": 0.2, "late": 0.07}  # standard deviation of the points around their centre, in edges of the cube


@dataclass(frozen=True)
class Scores:
    """The metric of candidates [candidates, items], and the log-likelihoods of each item's choices.

    `choices[i]` is [candidates, choices], divided by the choices' lengths where the metric does so; `gold[i]` is the
    right choice of item i.
    """

    kinds: tuple[str, ...]
    items: tuple[str, ...]
    metric: Matrix
    choices: tuple[Matrix, ...]
    gold: tuple[int, ...]


def points(dimensions: int, count: int, centre: Sequence[float] | None, seed: int = 1) -> Iterator[tuple[str, Matrix]]:
    """Kind and point: of the whole cube, around its middle as when a search begins, around `centre` as at its end."""
    draw = np.random.default_rng(seed)
    middle = np.full(dimensions, 0.5)
    centres = {"early": middle, "late": middle if centre is None else np.array(centre)}
    for place in range(count):
        kind = KINDS[place % len(KINDS)]
        if kind == "wide":
            yield kind, draw.random(dimensions)
        else:
            yield kind, np.clip(centres[kind] + SPREADS[kind] * draw.standard_normal(dimensions), 0, 1)


def measure(arena: Arena, count: int, centre: Sequence[float] | None, path: Path) -> None:
    """Append a line for each candidate that the file does not hold yet."""
    plan, scorer, space = arena.experiment.scorer.plan, arena.experiment.scorer, arena.experiment.space
    done = {json.loads(line)["place"] for line in path.read_text().splitlines()} if path.exists() else set()
    losses = {item: loss for item in plan.items("search") if (loss := scorer.loss(item)) and loss.gold is not None}
    for place, (kind, point) in enumerate(points(space.dimensions, count, centre)):
        if place in done:
            continue
        candidate = Candidate.of(f"{kind}/{place}", space.decode(point), point)
        row: dict[str, Any] = {"place": place, "kind": kind, "point": list(map(float, point)), "items": {}}
        for chunk in plan.chunks["search"]:
            responses = arena.responses(candidate, chunk.id)
            scores, answers = scorer.grade(chunk, responses), iter(responses)
            for item in chunk.items:
                found = [float(next(answers)[0]) for _ in losses[item].requests]
                lengths = losses[item].lengths or [1.0] * len(found)
                shown = [value / length for value, length in zip(found, lengths, strict=True)]
                row["items"][item] = [scores[item], losses[item].gold, shown]
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read(path: Path) -> Scores:
    """What `measure` has written so far."""
    rows = sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda row: int(row["place"]))
    items = tuple(rows[0]["items"])
    return Scores(
        tuple(row["kind"] for row in rows),
        items,
        np.array([[row["items"][item][0] for item in items] for row in rows]),
        tuple(np.array([row["items"][item][2] for row in rows]) for item in items),
        tuple(rows[0]["items"][item][1] for item in items),
    )
