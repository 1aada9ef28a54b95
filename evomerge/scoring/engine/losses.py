"""The differentiable losses of items, and their backward pass: one forward and one backward pass for each batch."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from evomerge.scoring.engine.encoder import EncodedLoss, Encoder
from evomerge.scoring.engine.head import refuse_nonfinite
from evomerge.scoring.engine.loglikelihood import TreeEngine
from evomerge.scoring.engine.memory import MemoryBudget, out_of_memory
from evomerge.scoring.engine.rows import row_sums
from evomerge.scoring.engine.seq2seq import Seq2SeqScorer
from evomerge.scoring.engine.tree import Pair
from evomerge.scoring.engine.windows import full_attention_length

log = logging.getLogger(__name__)


class LossEngine:
    """Computes the losses of items with the model's current weights, and their derivatives by a backward pass.

    With `trees`, the choices of an item share its context in a token tree. A batch has at most `batch_tokens` tokens.
    After an out-of-memory error batches are smaller. If one item alone does not fit, activations are computed again in
    the backward pass (gradient checkpointing).
    """

    def __init__(self, model: PreTrainedModel, encoder: Encoder, *, trees: bool, batch_tokens: int) -> None:
        self._model, self._encoder = model, encoder
        self._trees = TreeEngine(model) if trees and not model.config.is_encoder_decoder else None
        self._seq2seq = None
        if model.config.is_encoder_decoder:
            self._seq2seq = Seq2SeqScorer(model, max_length=encoder.max_length, max_tokens=batch_tokens)
        self._longest = full_attention_length(model.config)
        self._budget = MemoryBudget(batch_tokens)
        self._checkpointing = False

    @torch.no_grad()
    def losses(self, items: Sequence[EncodedLoss]) -> list[float]:
        """The loss of each item, by forward passes alone."""
        found: list[float] = []
        self._budget.run(items, self._cost, lambda batch: found.extend(self._losses(batch).tolist()))
        refuse_nonfinite(found)
        return found

    @torch.enable_grad()
    def backward(
        self,
        items: Sequence[EncodedLoss],
        weights: Sequence[float],
        batch: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> list[float]:
        """The loss of each item, after backward passes from their weighted sum.

        Hooks and gradients of the model receive the derivatives. Each pass runs within `batch()`, which has to drop
        what the pass has added if it raises, as the pass is then repeated with fewer items.
        """
        found: list[float] = []

        def run(part: Sequence[tuple[EncodedLoss, float]]) -> None:
            with batch(), _checkpointed(self._model) if self._checkpointing else nullcontext():
                losses = self._losses([item for item, _ in part])
                (losses * losses.new_tensor([weight for _, weight in part])).sum().backward()
            found.extend(losses.tolist())

        pairs = list(zip(items, weights, strict=True))
        try:
            self._budget.run(pairs, lambda part: self._cost([item for item, _ in part]), run)
        except RuntimeError as error:
            if self._checkpointing or not out_of_memory(error):
                raise
            log.warning("out of memory with one item: activations are computed again in the backward pass")
            self._checkpointing = True
            return found + self.backward(items[len(found) :], weights[len(found) :], batch)
        refuse_nonfinite(found)
        return found

    def _losses(self, items: Sequence[EncodedLoss]) -> Tensor:
        """[items] in fp32, of one batch."""
        sums = self._sums([pair for item in items for pair in item.pairs])
        parts = sums.split([len(item.pairs) for item in items])
        return torch.stack([_loss(item, part) for item, part in zip(items, parts, strict=True)])

    def _sums(self, pairs: Sequence[Pair]) -> Tensor:
        if self._seq2seq:
            return self._seq2seq.sums(pairs)
        longest = max(len(pair.inputs(self._encoder.max_length)) for pair in pairs)
        if self._trees is None or longest > self._longest:
            return row_sums(self._model, pairs, self._encoder.max_length)
        return self._trees.sums(self._encoder.batches(pairs, self._budget.tokens, cached=not self._checkpointing))

    def _cost(self, items: Sequence[EncodedLoss]) -> int:
        """The number of tokens of a batch without padding."""
        return sum(item.tokens if self._trees else item.row_tokens for item in items)


def _loss(item: EncodedLoss, values: Tensor) -> Tensor:
    loss = item.loss
    if loss.gold is None:
        return -values.sum() / sum(len(pair.continuation) for pair in item.pairs)
    owners = torch.tensor(item.owners, device=values.device)
    choices = values.new_zeros(len(loss.requests)).index_add(0, owners, values)
    if loss.lengths is not None:
        choices = choices / choices.new_tensor(loss.lengths)
    return -choices.log_softmax(0)[loss.gold]


@contextmanager
def _checkpointed(model: PreTrainedModel) -> Iterator[None]:
    """Within the context, layers keep only their inputs; they must be in training mode, their parts are not."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    # transformers renames it in version 6
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    disable = getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)
    enable({"use_reentrant": False})
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        disable()
        for layer in layers:
            layer.training = False
