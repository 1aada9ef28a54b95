"""What the log-likelihood engines share: the states that reach a model's output head, and what an answer is."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from evomerge.errors import CandidateError

Answers = list[tuple[float, bool]]
"""(log-likelihood in nats, whether each token is the likeliest) per pair."""


@contextmanager
def restrict_head(model: PreTrainedModel, states: torch.Tensor) -> Iterator[None]:
    """Let only these states, of all rows in one line, reach the output head; what scales logits behind it is kept."""

    def gather(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *rest = arguments
        return (hidden.flatten(0, 1)[states].unsqueeze(0), *rest)

    hook = model.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield
    finally:
        hook.remove()


def refuse_infinite(values: Iterable[float]) -> None:
    """CandidateError names the first log-likelihood that is not a finite number."""
    for value in values:
        if not math.isfinite(value):
            raise CandidateError(f"the log-likelihood is {value}: the merged weights overflow or hold a NaN")
