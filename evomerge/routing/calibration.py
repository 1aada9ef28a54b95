"""Fits the routers of a merged model to texts, one layer after the other, so that each sees the calibrated ones below.

Huang et al. 2026 (HARC): for the texts of each domain the merged model shall route as the domain's own model does.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evomerge.models import Family
from evomerge.routing.equation import RouterEquation
from evomerge.routing.router_inputs import router_inputs
from evomerge.routing.work import RouterWork


@torch.no_grad()
def calibrate_routers(
    model: PreTrainedModel, family: Family, names: Sequence[str], work: RouterWork
) -> dict[str, Tensor]:
    """Router name → calibrated weight [experts, hidden], float32 on the host.

    `names` are in the order of the layers. The model's weights must be those of the merge, and its routers must choose
    by a softmax (`refuse_other_routing`).
    """
    parameters = {name: model.get_parameter(family.base.parameter[name]) for name in names}
    found = {}
    with _restored(parameters.values()):
        for name, parameter in parameters.items():
            equation = RouterEquation(work.shrinkage)
            router = model.get_submodule(family.base.parameter[name].rpartition(".")[0])
            for domain in work.domains:
                inputs = router_inputs(model, router, domain.rows, parameter.device)
                equation.add(inputs, family.dense(domain.model, name).float().to(parameter.device))
            found[name] = equation.solve(parameter).float()
            parameter.copy_(found[name])
    return {name: weight.cpu() for name, weight in found.items()}


@contextmanager
def _restored(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Put the values of these tensors back at the end."""
    kept = [(tensor, tensor.clone()) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, values in kept:
            tensor.copy_(values)
