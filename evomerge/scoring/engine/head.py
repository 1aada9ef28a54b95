"""Shared by the log-likelihood engines: their result type, and the restriction of the output head to some states."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from evomerge.errors import CandidateError

LogLikelihoods = list[tuple[float, bool]]
"""(log-likelihood in nats, whether every token is the most likely one) for each pair."""


BLOCK = 256  # states whose logits are converted to fp32 at a time


@contextmanager
def restrict_head(model: PreTrainedModel, states: torch.Tensor) -> Iterator[None]:
    """Within the context, compute logits [1, states, vocabulary] for these states only.

    `states` are flat indices into the rows of hidden states. Operations of the model after its output head, such as
    soft-capping, still apply.
    """

    def gather(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *rest = arguments
        return (hidden.flatten(0, 1)[states].unsqueeze(0), *rest)

    hook = model.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield
    finally:
        hook.remove()


def log_normalisers(logits: torch.Tensor) -> torch.Tensor:
    """log Σ exp over the vocabulary in fp32 for each state [states], of logits [states, vocabulary] of any dtype.

    Only BLOCK states exist in fp32 at a time: 131 MB and as much for the exponentials at 128,256 tokens.
    """
    return torch.cat([block.float().logsumexp(-1) for block in logits.split(BLOCK)])


def refuse_nonfinite(values: Iterable[float]) -> None:
    """CandidateError for the first log-likelihood that is not finite."""
    for value in values:
        if not math.isfinite(value):
            raise CandidateError(f"the log-likelihood is {value}: the merged weights overflow or hold a NaN")
