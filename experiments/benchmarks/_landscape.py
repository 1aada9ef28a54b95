"""A simulated merge: four tasks, an expert for each, in two blocks of layers, and items that are right or wrong.

Made to look like smollm2's: experts score about .5 on all tasks, 0.5 of each about .81, the best about .85, and two
candidates of an early generation disagree on one item in eight.
"""

import math
from collections.abc import Mapping

import numpy as np

from evomerge.optimizers import Vector
from evomerge.scoring.protocol import Plan
from evomerge.scoring.tasks.slices import make_chunks

TASKS, DIMENSIONS, LARGEST = 4, 8, 1.5  # of a weight
DEPTH = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.75, 0.25]])  # where a task's expert does its work
START = np.array([-0.35, 0.1, -0.5, 0.25])  # of the base, in standard deviations of an item's difficulty
GAIN, RATE = np.array([2.2, 1.5, 2.4, 1.6]), np.array([1.5, 3.2, 1.2, 2.2])
HARM = np.array([[0, 0.35, 0.1, 0.15], [0.15, 0, 0.25, 0.4], [0.35, 0.1, 0, 0.2], [0.12, 0.45, 0.15, 0]])
SPREAD, TASTE = 0.9, 0.7  # of difficulties, and of how differently items like a move of the weights


def skill(point: Vector) -> Vector:
    """What the merge can do at each task."""
    weights = LARGEST * np.asarray(point).reshape(TASKS, 2)
    own = (weights * DEPTH).sum(1)
    found: Vector = START + GAIN * (1 - np.exp(-RATE * own)) - HARM @ weights.mean(1) ** 2
    return found - 0.9 * np.maximum(0, own - 1.05) ** 2


def truth(point: Vector) -> float:
    """The score on all items that there could be."""
    spread = math.sqrt(SPREAD**2 + TASTE**2 * float(((np.asarray(point) - 0.33) ** 2).sum()))
    return float(np.mean([0.5 * (1 + math.erf(z / spread / math.sqrt(2))) for z in skill(point)]))


def starts() -> list[Vector]:
    """The uniform average, 0.5 of each expert, and each expert."""
    single = [np.repeat(np.eye(TASKS)[task], 2) / LARGEST for task in range(TASKS)]
    return [np.full(DIMENSIONS, 0.25 / LARGEST), np.full(DIMENSIONS, 0.5 / LARGEST), *single]


class Items:
    """So many items of each task, drawn by a seed."""

    def __init__(self, seed: int, count: int) -> None:
        self.count, draw = count, np.random.default_rng(seed)
        self._difficulty = SPREAD * draw.standard_normal((TASKS, count))
        self._taste = TASTE * draw.standard_normal((TASKS, count, DIMENSIONS))

    def right(self, point: Vector) -> Vector:
        """1 for each item that the merge gets right: [tasks, items]."""
        liking = skill(point)[:, None] + self._taste @ (np.asarray(point) - 0.33) + self._difficulty
        return (liking > 0).astype(np.float64)


def plan(count: int, chunk_items: int) -> Plan:
    """The search slice, dealt as a real one."""
    items = {f"t{task}": [f"t{task}/{i}" for i in range(count)] for task in range(TASKS)}
    return Plan({"search": make_chunks("search", items, chunk_items)}, dict.fromkeys(items, 1.0))


def named(right: Vector) -> Mapping[str, float]:
    """Item → score, as an evaluator has it."""
    return {f"t{task}/{i}": float(score) for task, row in enumerate(right) for i, score in enumerate(row)}
