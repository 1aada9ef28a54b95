"""The worker's scoring engine: the tree engine if it agrees with lm-eval's own forward pass, otherwise that pass."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import CandidateError
from evomerge.scoring import Answer, Request
from evomerge.scoring.engine.batches import BatchPlan, plan
from evomerge.scoring.engine.encoder import EncodedChunk, Encoder
from evomerge.scoring.engine.generation import Generator
from evomerge.scoring.engine.harness import PlainEngine
from evomerge.scoring.engine.head import LogLikelihoods
from evomerge.scoring.engine.loglikelihood import TreeEngine
from evomerge.scoring.engine.memory import out_of_memory
from evomerge.scoring.engine.seq2seq import Seq2SeqScorer
from evomerge.scoring.engine.tree import Costs, Pair
from evomerge.scoring.engine.windows import full_attention_length

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 0.01, torch.float16: 2e-3}  # relative to 1 + |log-likelihood|
GENERATION_FACTOR = 8  # a generation batch may have so many times the tokens of a forward pass


class Answerer(Protocol):
    """Generates answers with a candidate's weights."""

    def answer(self, requests: Sequence[Request]) -> list[Answer | list[Answer]]:
        """One answer per request in order, or a list of them for a request with repeats."""


class ScoringEngine:
    """Computes the responses to the requests of a chunk with the model's current weights.

    `path` selects how log-likelihoods are computed: `plain` (lm-eval's forward pass), `tree`, or `auto`. With `auto`,
    token trees are used if they give the same numbers as the plain path on a few pairs with the weights at
    construction. Encoder-decoder models have no trees; each of their contexts is encoded once. `counts_context` is that
    of `Generator`, which generates where no other `generator` is given.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        encoder: Encoder,
        *,
        batch_size: int = 16,
        batch_tokens: int = 4096,
        path: str = "auto",
        counts_context: bool = True,
        generator: "Answerer | None" = None,
    ) -> None:
        self._plain = PlainEngine(model, tokenizer, batch_size=batch_size, max_length=encoder.max_length)
        self._encoder = encoder
        self._generator: Answerer = generator or Generator(
            model,
            tokenizer,
            max_tokens=GENERATION_FACTOR * batch_tokens,
            max_length=encoder.max_length,
            counts_context=counts_context,
        )
        self._seq2seq = _seq2seq(model, encoder.max_length, batch_tokens)
        self._tree = TreeEngine(model)
        self._full_attention_length = full_attention_length(model.config)
        self._max_tokens: int | None = None  # a lower limit of batches, after an out-of-memory error
        self.plain_reason = self._why_plain(path, model)
        self._warned = path != "auto"  # no warning about a path that the user has chosen
        if self.plain_reason:
            self._warn_once(self.plain_reason)

    def forget(self) -> None:
        """Discard what is cached between chunks; to be called when the weights have changed."""
        self._tree.forget()

    def respond(self, chunk: EncodedChunk) -> list[Any]:
        """One raw response per request, in order; CandidateError if the model's outputs are not finite."""
        owned: dict[int, LogLikelihoods] = {}
        for owner, answer in zip(chunk.owners, self.log_likelihoods(chunk), strict=True):
            owned.setdefault(owner, []).append(answer)
        responses = [_response(request, owned.get(place, [])) for place, request in enumerate(chunk.requests)]
        others = [place for place in range(len(responses)) if place not in owned]
        for place, response in zip(others, self._generator.answer([chunk.requests[i] for i in others]), strict=True):
            responses[place] = response
        return responses

    def log_likelihoods(self, chunk: EncodedChunk) -> LogLikelihoods:
        """(log-likelihood, is greedy) per pair of a chunk."""
        if self.plain_reason:
            return self._plain.score(chunk.pairs)
        if chunk.longest > self._full_attention_length:
            self._warn_once(
                f"{chunk.longest} tokens exceed the {self._full_attention_length:g} that this model attends to at once"
            )
            return self._plain.score(chunk.pairs)
        if self._seq2seq:
            return self._seq2seq.score(chunk.pairs)
        return self._score_trees(chunk) if chunk.batches else []

    def _warn_once(self, reason: str) -> None:
        if not self._warned:
            log.warning("scored by lm-eval's own forward pass, not by token trees: %s", reason)
        self._warned = True

    def _score_trees(self, chunk: EncodedChunk) -> LogLikelihoods:
        """The tree engine's result; after an out-of-memory error it is repeated with permanently smaller batches.

        If halving does not make the largest batch smaller, a single request is too long, and the error is raised.
        """
        batches = self._batches(chunk, self._max_tokens)
        while True:
            try:
                return self._tree.score(batches)
            except RuntimeError as error:
                max_tokens = batches.largest_batch // 2
                halved = self._batches(chunk, max_tokens)
                if not out_of_memory(error) or halved.largest_batch >= batches.largest_batch:
                    raise
            self._max_tokens, batches = max_tokens, halved
            self._tree.forget()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # outside of the handler, as the exception references the batch's tensors
            log.warning("out of memory: scoring continues with %d tokens in a batch", max_tokens)

    def _batches(self, chunk: EncodedChunk, max_tokens: int | None) -> BatchPlan:
        assert chunk.batches is not None
        return chunk.batches if max_tokens is None else self._encoder.batches(chunk.pairs, max_tokens)

    def _why_plain(self, path: str, model: PreTrainedModel) -> str | None:
        """Why the plain path is used, or None."""
        if path != "auto":
            return "model.scoring=plain" if path == "plain" else None
        pairs = _probe(model.config.get_text_config().vocab_size, self._encoder.max_length)
        try:
            theirs = self._plain.score(pairs)
        except CandidateError:  # the outputs are not finite on any path, which scoring will report
            return None
        except Exception as error:  # a model that cannot compute log-likelihoods may still generate
            return _first_line(error)
        try:
            trials = list(self._trials(pairs, model))
        except Exception as error:  # a model's custom code may raise anything for arguments that it does not support
            kind = "several answers to one context" if self._seq2seq else "token trees"
            return f"{kind} fail in this model: {_first_line(error)}"
        finally:
            self._tree.forget()
        found = (_difference(ours, theirs, TOLERANCE[model.dtype]) for ours in trials)
        return next((difference for difference in found if difference), None)

    @torch.inference_mode()
    def _trials(self, pairs: list[Pair], model: PreTrainedModel) -> Iterator[LogLikelihoods]:
        """Results for the pairs: with every shared prefix cached, then with none and several units in a row."""
        if self._seq2seq:
            yield self._seq2seq.score(pairs)
            return
        for overhead in (-1000, 1000):
            costs = Costs(
                width=6 * model.config.get_text_config().hidden_size, max_tokens=32, max_states=8, overhead=overhead
            )
            self._tree.forget()
            yield self._tree.score(plan(pairs, self._encoder.max_length, costs))


def _seq2seq(model: PreTrainedModel, max_length: int, tokens: int) -> Seq2SeqScorer | None:
    if not model.config.is_encoder_decoder:
        return None
    return Seq2SeqScorer(model, max_length=max_length, max_tokens=GENERATION_FACTOR * tokens)


def _probe(vocabulary: int, longest: int) -> list[Pair]:
    """Pairs that cover the cases of a tree: two contexts with a common beginning, and continuations of several lengths,
    of which some share a beginning and one is the beginning of another."""
    draw = np.random.default_rng(0).integers(0, vocabulary, (6, 8)).tolist()
    start, one, other, *answers = map(tuple, draw)
    twin = (*answers[0][:2], (answers[0][2] + 1) % vocabulary)
    wanted = [answers[0][:1], answers[0][:3], twin, answers[1][:2], answers[2]]
    return [Pair(start + context, answer[:longest]) for context in (one, other) for answer in wanted]


def _difference(ours: LogLikelihoods, theirs: LogLikelihoods, tolerance: float) -> str | None:
    for (own, _), (plain, _) in zip(ours, theirs, strict=True):
        if not abs(own - plain) <= tolerance * (1 + abs(plain)):
            return f"the two differ on a trial item ({own:.6g} and {plain:.6g}); this model needs another mask"
    return None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _response(request: Request, parts: LogLikelihoods) -> Any:
    """The response of lm-eval's class from the log-likelihoods of a request's pairs; None if it has no pairs."""
    if not parts:
        return None
    answer = sum(value for value, _ in parts) if request.kind == "loglikelihood_rolling" else parts[0]
    return [answer] * request.repeats if request.repeats > 1 else answer
