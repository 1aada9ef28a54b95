"""Hooks in a live model by which a backward pass yields the derivatives with respect to the recipe's values.

No gradient of the whole model is ever in memory. A linear layer whose tangents are of low rank is not differentiated
with respect to its weight at all. Any other parameter's gradient is contracted as soon as it is complete, and freed.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evomerge.kernels import LowRankTangents, dense_derivatives, low_rank_tangents
from evomerge.merging.tangents import TensorTangents
from evomerge.methods import Owner
from evomerge.models import Base

Sums = dict[Owner, NDArray[np.float64]]  # gene and expert → the derivative with respect to its value in each tensor


class SlopeHooks:
    """While it is entered, each backward pass adds the derivatives of its loss to `sums`, on the model's device.

    `base` knows the model's parameters by the recipe's tensors; `embeddings` are the modules from which the
    graph begins, as no parameter needs a gradient otherwise.
    """

    def __init__(
        self,
        model: nn.Module,
        embeddings: Sequence[nn.Module],
        base: Base,
        tangents: Sequence[TensorTangents],
    ) -> None:
        self._model, self._embeddings, self._places = model, embeddings, base.destination
        self._tangents = tangents
        self._handles: list[RemovableHandle] = []
        self._trained: list[nn.Parameter] = []
        self._sums: dict[int, Tensor] = {}  # place of a tensor → one derivative for each of its tangents, on the device

    @property
    def sums(self) -> Sums:
        """The derivatives so far, on the host."""
        found: Sums = {}
        for tensor in self._tangents:
            if tensor.place in self._sums:
                for owner, value in zip(tensor.tangents, self._sums[tensor.place].tolist(), strict=True):
                    found.setdefault(owner, np.zeros(len(self._places)))[tensor.place] = value
        return found

    def __enter__(self) -> "SlopeHooks":
        owners = Counter(id(p) for module in self._model.modules() for p in module._parameters.values())
        dense: dict[str, list[TensorTangents]] = {}
        for tensor in self._tangents:
            place = self._places[tensor.merge.name]
            module, low_rank = self._model.get_submodule(place.path.rpartition(".")[0]), None
            if place.whole and type(module) is nn.Linear and owners[id(self._model.get_parameter(place.path))] == 1:
                low_rank = low_rank_tangents(list(tensor.tangents.values()), tensor.merge.setup.sources)
            if low_rank is None:
                for path in place.paths:
                    dense.setdefault(path, []).append(tensor)
            else:
                self._handles.append(module.register_forward_hook(self._project(tensor, low_rank)))
        for path, tensors in dense.items():
            parameter = self._model.get_parameter(path)
            parameter.requires_grad_()
            self._trained.append(parameter)
            self._handles.append(parameter.register_post_accumulate_grad_hook(self._contract(path, tensors)))
        self._handles += [module.register_forward_hook(_begin_graph) for module in self._embeddings]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        for parameter in self._trained:
            parameter.requires_grad_(False).grad = None
        self._handles, self._trained = [], []

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Drop what the block has added to `sums` if it raises, so that it can be repeated."""
        before = dict(self._sums)
        try:
            yield
        except BaseException:
            self._sums = before
            raise

    def _project(self, tensor: TensorTangents, low_rank: LowRankTangents) -> Callable[..., None]:
        def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if output.requires_grad:
                projected = low_rank.project(inputs[0])
                output.register_hook(lambda gradient: self._add(tensor, low_rank.contract(projected, gradient)))

        return forward

    def _contract(self, path: str, tensors: Sequence[TensorTangents]) -> Callable[[Tensor], None]:
        def backward(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            assert gradient is not None
            for tensor in tensors:
                part = self._places[tensor.merge.name].gradient(path, gradient)
                merge, tangents = tensor.merge, list(tensor.tangents.values())
                self._add(tensor, dense_derivatives(part, merge.coefficients, tangents, merge.setup.sources))

        return backward

    def _add(self, tensor: TensorTangents, derivatives: Tensor) -> None:
        known = self._sums.get(tensor.place)
        self._sums[tensor.place] = derivatives if known is None else known + derivatives


def _begin_graph(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    if torch.is_grad_enabled() and output.is_leaf:
        output.requires_grad_()
