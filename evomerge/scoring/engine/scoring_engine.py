"""The worker's engine: the tree engine where it agrees with lm-eval's own forward, that forward elsewhere."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import CandidateError
from evomerge.scoring import Request
from evomerge.scoring.engine.batches import BatchPlan, plan
from evomerge.scoring.engine.encoder import Encoder, Work
from evomerge.scoring.engine.generation import Generator
from evomerge.scoring.engine.harness import HarnessEngine
from evomerge.scoring.engine.head import Answers
from evomerge.scoring.engine.loglikelihood import TreeEngine
from evomerge.scoring.engine.memory import out_of_memory
from evomerge.scoring.engine.seq2seq import Seq2SeqScorer
from evomerge.scoring.engine.tree import Costs, Pair
from evomerge.scoring.engine.windows import reach

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 0.01, torch.float16: 2e-3}  # relative to 1 + |log-likelihood|
ANSWERS = 8  # times the tokens of a forward pass that keys and values of answers may hold


class ScoringEngine:
    """Answers a chunk's work with the weights that the model has at that moment.

    `path` is that of log-likelihoods: `plain` (lm-eval's forward), `tree`, or `auto`: token trees, if they give the
    same numbers as the plain path on a few pairs with the weights that the model has now. An encoder-decoder model
    has its contexts encoded once instead.
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
    ) -> None:
        self._plain = HarnessEngine(model, tokenizer, batch_size=batch_size, max_length=encoder.max_length)
        self._encoder = encoder
        self._generator = Generator(model, tokenizer, max_tokens=ANSWERS * batch_tokens, max_length=encoder.max_length)
        self._seq2seq = _seq2seq(model, encoder.max_length, batch_tokens)
        self._tree = TreeEngine(model)
        self._reach = reach(model.config)
        self._most: int | None = None  # tokens of a batch, where memory has no room for the planned ones
        self.plain_because = self._refusal(path, model)
        self._said = path != "auto"  # whoever chose a path knows
        if self.plain_because:
            self._say_once(self.plain_because)

    def forget(self) -> None:
        """To be called when the weights have changed: what is cached between chunks is void."""
        self._tree.forget()

    def respond(self, work: Work) -> list[Any]:
        """One raw response per request, in order; CandidateError when the model's numbers are not finite."""
        owned: dict[int, Answers] = {}
        for owner, answer in zip(work.owners, self.answers(work), strict=True):
            owned.setdefault(owner, []).append(answer)
        responses = [_response(request, owned.get(place, [])) for place, request in enumerate(work.requests)]
        others = [place for place in range(len(responses)) if place not in owned]
        for place, response in zip(others, self._generator.answer([work.requests[i] for i in others]), strict=True):
            responses[place] = response
        return responses

    def answers(self, work: Work) -> Answers:
        """(log-likelihood, is greedy) per pair of the work."""
        if self.plain_because:
            return self._plain.pairs(work.pairs)
        if work.longest > self._reach:
            self._say_once(f"{work.longest} tokens are more than the {self._reach:g} that this model sees at once")
            return self._plain.pairs(work.pairs)
        if self._seq2seq:
            return self._seq2seq.score(work.pairs)
        return self._with_room(work) if work.batches else []

    def _say_once(self, reason: str) -> None:
        if not self._said:
            log.warning("scored by lm-eval's own forward pass, not by token trees: %s", reason)
        self._said = True

    def _with_room(self, work: Work) -> Answers:
        """The tree engine's answers, in smaller batches from now on where memory does not suffice.

        Where halving makes no batch smaller, one request alone is too long: that is the candidate's failure.
        """
        batches = self._batches(work, self._most)
        while True:
            try:
                return self._tree.score(batches)
            except RuntimeError as error:
                most = batches.widest // 2
                halved = self._batches(work, most)
                if not out_of_memory(error) or halved.widest >= batches.widest:
                    raise
            self._most, batches = most, halved
            self._tree.forget()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # after the handler, which held what the batch had allocated
            log.warning("out of memory: scoring goes on with %d tokens in a batch", most)

    def _batches(self, work: Work, most: int | None) -> BatchPlan:
        assert work.batches is not None
        return work.batches if most is None else self._encoder.smaller(work, most)

    def _refusal(self, path: str, model: PreTrainedModel) -> str | None:
        """Why the plain path is taken, or None."""
        if path != "auto":
            return "model.scoring=plain" if path == "plain" else None
        pairs = _probe(model.config.get_text_config().vocab_size, self._encoder.max_length)
        try:
            theirs = self._plain.pairs(pairs)
        except CandidateError:  # these weights give no number on any path: nothing to compare, and scoring will say so
            return None
        except Exception as error:  # a model that takes no labels may generate all the same
            return _first_line(error)
        try:
            tries = list(self._trials(pairs, model))
        except Exception as error:  # custom code may fail in any way on arguments that it does not know
            kind = "several answers to one context" if self._seq2seq else "token trees"
            return f"{kind} fail in this model: {_first_line(error)}"
        finally:
            self._tree.forget()
        found = (_difference(ours, theirs, TOLERANCE[model.dtype]) for ours in tries)
        return next((difference for difference in found if difference), None)

    @torch.inference_mode()
    def _trials(self, pairs: list[Pair], model: PreTrainedModel) -> Iterator[Answers]:
        """The pairs with every shared beginning cached, then with none, and several units in a row."""
        if self._seq2seq:
            yield self._seq2seq.score(pairs)
            return
        for overhead in (-1000, 1000):
            costs = Costs(width=6 * model.config.get_text_config().hidden_size, most=32, states=8, overhead=overhead)
            self._tree.forget()
            yield self._tree.score(plan(pairs, self._encoder.max_length, costs))


def _seq2seq(model: PreTrainedModel, max_length: int, tokens: int) -> Seq2SeqScorer | None:
    if not model.config.is_encoder_decoder:
        return None
    return Seq2SeqScorer(model, max_length=max_length, max_tokens=ANSWERS * tokens)


def _probe(vocabulary: int, longest: int) -> list[Pair]:
    """Two items that begin alike, with answers of several lengths: one begins another, two end differently."""
    draw = np.random.default_rng(0).integers(0, vocabulary, (6, 8)).tolist()
    start, one, other, *answers = map(tuple, draw)
    twin = (*answers[0][:2], (answers[0][2] + 1) % vocabulary)
    wanted = [answers[0][:1], answers[0][:3], twin, answers[1][:2], answers[2]]
    return [Pair(start + context, answer[:longest]) for context in (one, other) for answer in wanted]


def _difference(ours: Answers, theirs: Answers, tolerance: float) -> str | None:
    for (own, _), (plain, _) in zip(ours, theirs, strict=True):
        if not abs(own - plain) <= tolerance * (1 + abs(plain)):
            return f"the two differ on a trial item ({own:.6g} and {plain:.6g}); this model needs another mask"
    return None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _response(request: Request, parts: Answers) -> Any:
    """What lm-eval's class would say; None where the request has no pairs."""
    if not parts:
        return None
    answer = sum(value for value, _ in parts) if request.kind == "loglikelihood_rolling" else parts[0]
    return [answer] * request.repeats if request.repeats > 1 else answer
