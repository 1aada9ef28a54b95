"""The harness engine: lm-eval's own Hugging Face model class around a live model."""

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import CandidateError, TaskError
from evomerge.scorers import Request
from evomerge.scorers.quiet import SEED
from evomerge.scorers.tasks import one_line
from evomerge.scorers.tree import Pair


class HarnessEngine:
    """Answers requests with whatever weights the model has when it is asked; nothing is cached between calls.

    Log-softmax is taken in fp32 whatever the model's dtype. Place the model on its device first; it is put in
    evaluation mode. The tokenizer is copied, because lm-eval gives it a padding token. The random streams of
    numpy and Python are never touched; torch's is seeded for each call that generates and then put back, so a
    sampled answer depends on the chunk alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 16,
        max_length: int | None = None,
    ) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        self._model = model
        self._lm = _QuietHFLM(
            pretrained=model,
            tokenizer=copy.deepcopy(tokenizer),
            backend="seq2seq" if model.config.is_encoder_decoder else "causal",
            batch_size=batch_size,
            max_length=max_length,
            softmax_dtype="float32",
        )

    def respond(self, requests: Sequence[Request]) -> list[Any]:
        """One raw response per request, in order; CandidateError when the model's numbers are not finite."""
        responses: list[Any] = [None] * len(requests)
        for kind in dict.fromkeys(request.kind for request in requests):
            places = [i for i, request in enumerate(requests) if request.kind == kind]
            for i, answer in zip(places, self._ask(kind, [requests[i] for i in places]), strict=True):
                responses[i] = answer
        return responses

    def pairs(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """(log-likelihood, is greedy) of token pairs."""
        if not pairs:
            return []
        asked = [(None, list(pair.context), list(pair.continuation)) for pair in pairs]
        answers: list[tuple[float, bool]] = self._lm._loglikelihood_tokens(asked)
        return answers

    def _ask(self, kind: str, requests: Sequence[Request]) -> Iterator[Any]:
        instances = [_instance(request) for request in requests for _ in range(request.repeats)]
        try:
            with _generating(self._model) if kind == "generate_until" else nullcontext():
                answers = iter(getattr(self._lm, kind)(instances, disable_tqdm=True))
        except AssertionError as error:
            reason = one_line(error) or "a prompt or an answer is empty, or longer than the model allows"
            raise TaskError(f"{kind} requests do not fit the model: {reason}") from error
        for request in requests:
            own = [next(answers) for _ in range(request.repeats)]
            yield own if request.repeats > 1 else own[0]


class _QuietHFLM(HFLM):  # type: ignore[misc]
    """lm-eval's rolling log-likelihood asks for bars whatever it is told."""

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, **options: Any) -> list[Any]:
        answers: list[Any] = super()._loglikelihood_tokens(requests, disable_tqdm=True, **options)
        for value, _ in answers:
            if not math.isfinite(value):
                raise CandidateError(f"the log-likelihood is {value}: the merged weights overflow or hold a NaN")
        return answers


def _instance(request: Request) -> Instance:
    return Instance(request.kind, {}, request.arguments, 0, metadata=(None, None, request.repeats))


@contextmanager
def _generating(model: PreTrainedModel) -> Iterator[None]:
    """A torch random stream of its own, from lm-eval's seed, and a look at every logit."""
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _finite_logits(model):
        torch.manual_seed(SEED)
        yield


@contextmanager
def _finite_logits(model: PreTrainedModel) -> Iterator[None]:
    """Generation turns NaN logits into some text without a word; this raises CandidateError instead."""
    finite: list[torch.Tensor] = []

    def look(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        finite.append(output.isfinite().all())

    head = model.get_output_embeddings()
    hook = head.register_forward_hook(look) if head is not None else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
    if finite and not torch.stack(finite).all():
        raise CandidateError("the logits are not finite: the merged weights overflow or hold a NaN")
