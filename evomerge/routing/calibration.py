"""Fits the routers of a merged model to texts, one layer after the other, so that each sees the calibrated ones below.

Huang et al. 2026 (HARC): for the texts of each domain the merged model shall route as the domain's own model does.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evomerge.errors import CandidateError
from evomerge.models import Family
from evomerge.routing.equation import RouterEquation
from evomerge.routing.router_inputs import router_inputs
from evomerge.routing.work import RouterWork

SHIFT = 0.05  # standard deviation of the same change to the logits of all experts
SAME, SAME_IN_HALF = 1e-3, 0.1  # largest relative change of the model's output by it: rounding alone


@torch.no_grad()
def calibrate_routers(
    model: PreTrainedModel, family: Family, names: Sequence[str], work: RouterWork
) -> dict[str, Tensor]:
    """Router name → calibrated weight [experts, hidden], float32 on the host.

    `names` are in the order of the layers. The model's weights must be those of the merge. CandidateError if its
    routers do not choose by a softmax, as the curvature is that of a softmax.
    """
    parameters = {name: model.get_parameter(family.base.parameter[name]) for name in names}
    _refuse_other_routing(model, list(parameters.values()), work.domains[0].rows[0])
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


def _refuse_other_routing(model: PreTrainedModel, weights: Sequence[Tensor], row: Sequence[int]) -> None:
    """CandidateError if a change of all logits of a router by the same amount changes the output.

    It changes nothing in a softmax, but it does where each expert has a gate of its own.
    """
    before = _logits(model, row)
    with _restored(weights):
        generator = torch.Generator().manual_seed(0)
        for weight in weights:
            direction = torch.randn(weight.shape[1], generator=generator).to(weight)
            weight += SHIFT * direction
        after = _logits(model, row)
    # The median over positions, because rounding alone may change the choice of experts for a few tokens.
    change, size = ((after - before).abs().amax(-1).median(), before.abs().amax(-1).median())
    if change > (SAME if model.dtype == torch.float32 else SAME_IN_HALF) * size:
        raise CandidateError("these routers do not choose by a softmax, so they cannot be calibrated")


def _logits(model: PreTrainedModel, row: Sequence[int]) -> Tensor:
    output: Tensor = model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits
    return output.float()


@contextmanager
def _restored(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Put the values of these tensors back at the end."""
    kept = [(tensor, tensor.clone()) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, values in kept:
            tensor.copy_(values)
