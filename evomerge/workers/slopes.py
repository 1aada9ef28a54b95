"""The slopes of a candidate: losses of items and their derivatives with respect to the recipe's values."""

from collections.abc import Mapping, Sequence

from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from evomerge.merging import Materializer, SlopeHooks, TensorTangents, recipe_tangents
from evomerge.models import Base
from evomerge.recipes import Recipe
from evomerge.scoring.engine import EncodedLoss, LossEngine
from evomerge.workers.jobs import Slopes, SlopeWork


class SlopeComputer:
    """Differentiates the losses of items at a recipe that is written into the model."""

    def __init__(
        self,
        model: PreTrainedModel,
        base: Base,
        materializer: Materializer,
        engine: LossEngine,
        losses: Mapping[str, EncodedLoss],
    ) -> None:
        self._model, self._base, self._materializer = model, base, materializer
        self._engine, self._losses = engine, losses
        self._known: tuple[object, list[TensorTangents]] = (None, [])  # the tangents of the recipe that came last

    def compute(self, recipe: Recipe, work: SlopeWork) -> Slopes:
        """The slopes of one part of a batch; the model's weights must be the recipe's."""
        items = [self._losses[item] for item in work.items]
        if not work.genes:
            return Slopes(tuple(self._engine.losses(items)), {})
        hooks = SlopeHooks(
            self._model,
            _token_embeddings(self._model),
            self._base,
            self._tangents(recipe, work.genes),
        )
        if not work.measure:
            with hooks:
                losses = self._engine.backward(items, work.weights, hooks.all_or_nothing)
            return Slopes(tuple(losses), hooks.sums)
        with hooks, FlopCounterMode(display=False) as both:
            losses = self._engine.backward(items, work.weights, hooks.all_or_nothing)
        with FlopCounterMode(display=False) as forward:
            self._engine.losses(items)
        return Slopes(tuple(losses), hooks.sums, both.get_total_flops() / forward.get_total_flops())

    def _tangents(self, recipe: Recipe, genes: Sequence[str]) -> list[TensorTangents]:
        key = (recipe.key(), tuple(genes))
        if self._known[0] != key:
            self._known = (key, list(recipe_tangents(self._materializer, recipe, genes)))
        return self._known[1]


def _token_embeddings(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that embed tokens; encoder and decoder may each have one of the same weight."""
    weight = model.get_input_embeddings().weight
    return [module for module in model.modules() if isinstance(module, nn.Embedding) and module.weight is weight]
