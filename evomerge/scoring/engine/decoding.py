"""The decoding loop: `generate` of transformers prepares and prefills, then only rows that still speak are computed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils.generic import ModelOutput

from evomerge.errors import CandidateError

NOT_FINITE = "the logits are not finite: the merged weights overflow or hold a NaN"


@dataclass
class Line:
    """One answer while it is being written, of at most `limit` tokens, to the prompt in row `prompt`.

    Sampling takes the next token by the inverse of the distribution function at the next of its own `draws`, so an
    answer does not depend on what else is in the batch. An encoder-decoder's tokens begin with its start token, which
    counts, as it does in lm-eval.
    """

    prompt: int
    limit: int
    draws: Tensor | None = None
    tokens: list[int] = field(default_factory=list)
    stopped: bool = False


class Stops:
    """Finds stop sequences as lm-eval does: in the text of the last few tokens, two more than the sequence has."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, until: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._by_width: dict[int, list[str]] = {}
        for text in until:
            width = len(tokenizer.encode(text, add_special_tokens=False)) + 2
            self._by_width.setdefault(width, []).append(text)

    def met(self, answers: Sequence[Sequence[int]]) -> list[bool]:
        """Whether each answer has just reached one of them."""
        met = [False] * len(answers)
        for width, texts in self._by_width.items():
            shown = self._tokenizer.batch_decode([list(tokens[-width:]) for tokens in answers])
            met = [before or any(text in tail for text in texts) for before, tail in zip(met, shown, strict=True)]
        return met


class Loop:
    """What `generate` calls in place of its own loop; it fills the lines.

    transformers builds the inputs, the cache and the processors of the logits. Each step has one device
    synchronisation; CandidateError when a logit is not finite.
    """

    def __init__(self, lines: Sequence[Line], stops: Stops) -> None:
        self._live = list(lines)
        self._stops = stops

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        **inputs: Any,
    ) -> Tensor:
        """Write every line to its end; `stopping_criteria` are the lines' own: their limits, stops and end tokens."""
        ends = end_tokens(generation_config)
        seq2seq = bool(model.config.is_encoder_decoder)
        outputs = model._prefill(input_ids, generation_config, inputs)
        inputs = model._update_model_kwargs_for_generation(outputs, inputs, is_encoder_decoder=seq2seq)
        rows = [line.prompt for line in self._live]
        logits = outputs.logits[rows, -1]
        input_ids, inputs = _chosen(input_ids, inputs, logits_processor, rows)
        if seq2seq:
            for line, start in zip(self._live, input_ids.tolist(), strict=True):
                line.tokens += start
        while True:
            tokens = self._next(logits_processor(input_ids, logits.float()), logits)
            input_ids = torch.cat([input_ids, tokens[:, None]], dim=1)
            rows = self._close(ends)
            if not rows:
                return input_ids
            input_ids, inputs = _chosen(input_ids, inputs, logits_processor, rows)
            outputs = model(**model.prepare_inputs_for_generation(input_ids, next_sequence_length=1, **inputs))
            inputs = model._update_model_kwargs_for_generation(outputs, inputs, is_encoder_decoder=seq2seq)
            logits = outputs.logits[:, -1]

    def _next(self, scores: Tensor, logits: Tensor) -> Tensor:
        if self._live[0].draws is None:
            tokens = scores.argmax(-1)
        else:
            draws = [line.draws[len(line.tokens)] for line in self._live if line.draws is not None]
            tokens = _sampled(scores, torch.stack(draws).to(scores.device))
        *spoken, finite = torch.cat([tokens, logits.isfinite().all().long()[None]]).tolist()
        if not finite:
            raise CandidateError(NOT_FINITE)
        for line, token in zip(self._live, spoken, strict=True):
            line.tokens.append(token)
        return tokens

    def _close(self, ends: frozenset[int]) -> list[int]:
        """Take finished lines out, the last ones into their places; the answer is the row of each that is left."""
        met = self._stops.met([line.tokens for line in self._live])
        for line, stop in zip(self._live, met, strict=True):
            line.stopped = stop or line.tokens[-1] in ends
        done = [line.stopped or len(line.tokens) >= line.limit for line in self._live]
        left = len(done) - sum(done)
        tail = iter([row for row in range(left, len(done)) if not done[row]])
        rows = [next(tail) if done[row] else row for row in range(left)]
        self._live = [self._live[row] for row in rows]
        return rows


def _sampled(scores: Tensor, draws: Tensor) -> Tensor:
    """The first token whose cumulative probability exceeds each draw from [0, 1); float64, so no token is favoured."""
    below = scores.softmax(-1).double().cumsum(-1)
    return torch.searchsorted(below, (draws * below[:, -1])[:, None], right=True).squeeze(1)


def end_tokens(config: GenerationConfig) -> frozenset[int]:
    """The tokens after which a model has nothing more to say."""
    eos = config.eos_token_id
    if eos is None:
        return frozenset()
    return frozenset([eos] if isinstance(eos, int) else eos)


def refuse_infinite(input_ids: Tensor, scores: Tensor) -> Tensor:
    """A processor of logits that changes nothing; CandidateError on NaN or infinity (-inf marks a barred token)."""
    if not (scores < float("inf")).all():
        raise CandidateError(NOT_FINITE)
    return scores


def _chosen(
    input_ids: Tensor, inputs: dict[str, Any], processors: Iterable[Any], rows: list[int]
) -> tuple[Tensor, dict[str, Any]]:
    """Row i of everything becomes what row `rows[i]` was."""
    if rows == list(range(len(input_ids))):
        return input_ids, inputs
    picked = torch.tensor(rows, device=input_ids.device)
    for processor in processors:  # a repetition penalty knows how much padding each row begins with
        padding = getattr(processor, "prompt_ignore_length", None)
        if isinstance(padding, Tensor):
            processor.prompt_ignore_length = padding[picked]
    return input_ids[picked], {name: _pick(value, picked) for name, value in inputs.items()}


def _pick(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Cache):
        value.batch_select_indices(rows)
    elif isinstance(value, Tensor):
        return value[rows]
    elif isinstance(value, ModelOutput):
        return type(value)(**{name: _pick(part, rows) for name, part in value.items()})
    return value
