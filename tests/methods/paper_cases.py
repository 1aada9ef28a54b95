"""One tensor merged by any method with any genes, and task vectors to compare with a float64 oracle."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge import kernels, methods
from evomerge.kernels import Sources
from evomerge.kernels.sources import Update
from evomerge.methods import Genes, Setup
from tests.methods.oracles_papers import Array
from tests.methods.recipes import random_tensors
from tests.passes import merged

MLP = "model.layers.0.mlp.up_proj.weight"
SHAPES = [(1,), (11,), (13, 7), (7, 16), (2, 3, 5)]


def prepared(
    name: str, base: Tensor, experts: Sequence[Update], options: Mapping[str, str] | None = None, **given: Any
) -> Setup:
    sources = Sources(given.pop("tensor", MLP), base, experts)
    setup = Setup(sources, methods.choose_options(name, options or {}), **{"depth": 0.5, **given})
    sources.set_prepared(methods.load(name).prepare(setup))
    return setup


def coefficients(name: str, setup: Setup, **values: Any) -> kernels.Coefficients:
    """A list is one value for each expert, anything else is for all."""
    method, count = methods.load(name), len(setup.sources)
    own = {key: value if isinstance(value, list) else [value] * count for key, value in values.items()}
    rows = tuple({key: own[key][i] for key in own if key in method.PER_EXPERT} for i in range(count))
    defaults = {key: value for key, value in method.SHARED.items() if value is not None}
    shared = {**defaults, **{key: value for key, value in values.items() if key in method.SHARED}}
    return method.coefficients(setup, Genes(shared, rows, {}))


def run(name: str, base: Tensor, experts: Sequence[Update], options: Any = None, **values: Any) -> Tensor:
    given = {key: values.pop(key) for key in ("tensor", "depth", "whole_model") if key in values}
    setup = prepared(name, base, experts, options, **given)
    return merged(coefficients(name, setup, **values), setup.sources)


def family(shape: tuple[int, ...], count: int = 3) -> tuple[list[Tensor], Array, list[Array]]:
    tensors = random_tensors(shape, count)
    base, *experts = [tensor.double().numpy() for tensor in tensors]
    # Task vectors as a pass sees them: exact differences of fp32, rounded once.
    return tensors, base, [(expert - base).astype(np.float32).astype(np.float64) for expert in experts]


def close(ours: Tensor, wanted: Array, tolerance: float = 2e-6) -> None:
    assert np.allclose(ours.double().numpy(), wanted, rtol=tolerance, atol=tolerance)


def off_base(deltas: Sequence[Array]) -> tuple[Tensor, list[Tensor]]:
    """A base of zeros, so that task vectors are exactly these."""
    experts = [torch.from_numpy(np.asarray(delta)).float() for delta in deltas]
    return torch.zeros_like(experts[0]), experts
