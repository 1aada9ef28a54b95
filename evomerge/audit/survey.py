"""What all checks of an audit read: the models with their labels, and the statistics of every tensor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from evomerge.audit.measure import Matrix, TensorStatistics
from evomerge.models import AdapterExpert, Expert, Family
from evomerge.recipes import ModelRef

BASE = "base"


@dataclass
class Survey:
    """A family with its statistics. Experts are numbered from 0, models from the base, which is 0, on.

    `faulty` holds the places (tensor, model) that other checks leave out: their stored values are already a finding, or
    the expert has tied a tensor that the base has apart.
    """

    family: Family
    labels: Sequence[str]
    refs: Sequence[ModelRef]
    tensors: Sequence[TensorStatistics]
    dtype: str = "float32"
    faulty: set[tuple[str, int]] = field(default_factory=set)

    @property
    def experts(self) -> list[Expert]:
        """The experts, in the order of the labels."""
        return [self.family.experts[ref] for ref in self.refs]

    def name(self, model: int) -> str:
        """The label of a model."""
        return self.labels[model - 1] if model else BASE

    def adapters(self) -> Iterator[tuple[int, AdapterExpert]]:
        """The experts that are adapters, with their numbers."""
        for number, expert in enumerate(self.experts):
            if isinstance(expert, AdapterExpert):
                yield number, expert

    def is_usable(self, tensor: TensorStatistics, expert: int) -> bool:
        """Whether the values of the base and of the expert have no fault in this tensor."""
        return not self.faulty.intersection(((tensor.name, 0), (tensor.name, expert + 1)))

    def matrices(self, expert: int) -> list[TensorStatistics]:
        """The matrices that the expert changes, without those with faulty values."""
        place = expert + 1
        found = (tensor for tensor in self.tensors if tensor.is_matrix and tensor.changed[expert])
        return [tensor for tensor in found if tensor.gram[place, place] > 0 and self.is_usable(tensor, expert)]

    def common(self, one: int, other: int) -> list[TensorStatistics]:
        """The matrices that both experts change."""
        names = {tensor.name for tensor in self.matrices(other)}
        return [tensor for tensor in self.matrices(one) if tensor.name in names]

    @cached_property
    def gram(self) -> Matrix:
        """The inner products of the task vectors; a matrix with faulty values counts as no delta."""
        experts = range(len(self.labels))
        total = np.zeros((len(experts), len(experts)))
        for tensor in (tensor for tensor in self.tensors if tensor.is_matrix):
            usable = np.array([self.is_usable(tensor, expert) for expert in experts])
            total += tensor.gram[1:, 1:] * np.outer(usable, usable)
        return total

    @cached_property
    def norms(self) -> Matrix:
        """The norms of the task vectors."""
        return np.asarray(np.sqrt(np.clip(np.diag(self.gram), 0.0, None)))

    @cached_property
    def cosines(self) -> Matrix:
        """The cosines of the task vectors; 0 for one that is zero."""
        lengths = np.where(self.norms > 0, self.norms, np.inf)
        return np.asarray(self.gram / np.outer(lengths, lengths))

    def relative_norm(self, expert: int) -> float:
        """The norm of the task vector by that of the base, over the matrices that the expert changes."""
        found = self.matrices(expert)
        base = sum(tensor.gram[0, 0] for tensor in found)
        return float(np.sqrt(sum(tensor.gram[expert + 1, expert + 1] for tensor in found) / base)) if base else 0.0
