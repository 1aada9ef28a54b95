"""The only writer of weights: a recipe into a live model, tensor by tensor, or as a stream for export.

Every tensor is rebuilt from the base, in fp32, and rounded once at the write; search and export share this code.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evomerge import kernels, methods
from evomerge.errors import CandidateError
from evomerge.family import Family
from evomerge.kernels.sources import Sources, Update
from evomerge.lora import Factors
from evomerge.plan import Input, TensorPlan, plan
from evomerge.recipe import ModelRef, Recipe


class Materializer:
    """Builds recipes over one family on one device; what does not depend on the genes is prepared once and kept."""

    def __init__(self, family: Family, device: str = "cpu") -> None:
        self.family = family
        self.device = torch.device(device)
        self._states: dict[Any, Any] = {}
        self._magnitudes: dict[Any, float] = {}

    def tensors(self, recipe: Recipe) -> Iterator[tuple[str, Tensor]]:
        """Every merged tensor in fp32 under its output name, one at a time."""
        method = methods.load(recipe.method)
        options = methods.choose_options(recipe.method, recipe.options)
        for tensor_plan in plan(recipe, self.family.layout):
            sources = self._sources(tensor_plan)
            state = self._state(recipe, method, options, tensor_plan, sources)
            genes = methods.Genes(
                tensor_plan.shared, tuple(e.values for e in tensor_plan.experts), tensor_plan.base.values
            )
            yield tensor_plan.name, kernels.apply(method.coefficients(state, genes), sources)

    @torch.no_grad()
    def write(self, recipe: Recipe, model: nn.Module) -> None:
        """Fill the live model's parameters in place; CandidateError where one is not written or not finite."""
        parameters = dict(model.named_parameters())
        for name, tensor in self.tensors(recipe):
            parameter = parameters.pop(self.family.base.parameter.get(name, ""), None)
            if parameter is None:
                raise CandidateError(f"{name}: the live model has no such tensor; build stacked slices with `merge`")
            parameter.copy_(tensor)
            _refuse_non_finite(name, parameter)
        if parameters:
            raise CandidateError(f"{next(iter(parameters))}: the recipe writes no such parameter")

    def _sources(self, tensor_plan: TensorPlan) -> Sources:
        base, experts = self._dense(tensor_plan.base), tensor_plan.experts
        updates = tuple(self._update(expert, tensor_plan.base) for expert in experts)

        def threshold(index: int, density: float) -> float:
            return self._model_threshold(tensor_plan.base.model, experts[index].model, density)

        name = self.family.base.parameter.get(tensor_plan.name, tensor_plan.name)
        return Sources(name, base, updates, threshold, self.device)

    def _dense(self, source: Input) -> Tensor:
        """A model's own tensor in the base's place, dense even where the model is an adapter."""
        stored = self.family.base.checkpoint.tensor(source.name)
        update = self.family.update(source.model, source.name)
        if update is None:
            return stored
        return update.delta().add_(stored) if isinstance(update, Factors) else update

    def _update(self, expert: Input, base: Input) -> Update:
        """The expert relative to the tensor that stands as base: factors only where that is the family's base."""
        update = self.family.update(expert.model, expert.name)
        same_place = base.model == self.family.ref and base.name == expert.name
        return update if same_place else self._dense(expert)

    def _state(
        self,
        recipe: Recipe,
        method: methods.Method,
        options: Mapping[str, str],
        at: TensorPlan,
        sources: Sources,
    ) -> Any:
        inputs = (at.base.model, at.base.name, *((expert.model, expert.name) for expert in at.experts))
        key = (recipe.method, recipe.seed, tuple(options.items()), at.name, inputs)
        if key not in self._states:
            self._states[key] = method.prepare(sources, options, recipe.seed)
        return self._states[key]

    def _model_threshold(self, base: ModelRef, expert: ModelRef, density: float) -> float:
        """The magnitude that a share `density` of the expert's whole task vector, from that base, reaches."""
        if (base, expert, density) not in self._magnitudes:
            names = self.family.layout.names
            flat = torch.cat([self._delta(base, expert, name).abs_().flatten() for name in names])
            place = flat.numel() - max(1, int(density * flat.numel())) + 1
            self._magnitudes[base, expert, density] = float(flat.kthvalue(place).values)
        return self._magnitudes[base, expert, density]

    def _delta(self, base: ModelRef, expert: ModelRef, name: str) -> Tensor:
        start = Input(base, name, {})
        update = self._update(Input(expert, name, {}), start)
        return Sources(name, self._dense(start), (update,), device=self.device).delta(0)


def _refuse_non_finite(name: str, tensor: Tensor) -> None:
    if not torch.isfinite(tensor).all():
        raise CandidateError(f"{name}: the merged tensor is not finite in {tensor.dtype}; look for NaN in the experts")


def rounded(tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The one cast at the write, for export: what `write` leaves in a model of this dtype."""
    for name, tensor in tensors:
        cast = tensor.to(dtype).contiguous().cpu()
        _refuse_non_finite(name, cast)
        yield name, cast


class Fingerprint:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, whatever the order they come in."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Take in one tensor."""
        data = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().data
        self._digests[name] = f"{hashlib.sha256(data).hexdigest()} {tensor.dtype} {tuple(tensor.shape)}"

    def hexdigest(self) -> str:
        """64 hex digits for everything taken in so far."""
        text = "\n".join(f"{name} {digest}" for name, digest in sorted(self._digests.items()))
        return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The fingerprint of a whole stream of tensors."""
    digest = Fingerprint()
    for name, tensor in tensors:
        digest.add(name, tensor)
    return digest.hexdigest()
