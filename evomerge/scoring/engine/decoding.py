"""The decoding loop: transformers' `generate` prepares and prefills, then only unfinished rows are computed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig
from transformers.utils.generic import ModelOutput

from evomerge.errors import CandidateError
from evomerge.scoring.engine.caches import RowSelection, select_rows
from evomerge.scoring.engine.stops import StopSequences

NOT_FINITE = "the logits are not finite: the merged weights overflow or hold a NaN"


@dataclass
class PartialAnswer:
    """An answer during decoding, of at most `limit` tokens, to the prompt in row `prompt` of the batch.

    A sampled token is the inverse of the cumulative distribution at the next of the answer's own uniform `draws`, so an
    answer does not depend on the rest of the batch. The tokens of an encoder-decoder model begin with its start token,
    which counts towards the limit as in lm-eval.
    """

    prompt: int
    limit: int
    draws: Tensor | None = None
    tokens: list[int] = field(default_factory=list)
    stopped: bool = False


class DecodingLoop:
    """A `custom_generate` function for transformers' `generate`, which replaces its loop and fills the answers.

    transformers builds the inputs, the cache and the logits processors. Each step has one device synchronisation, and
    one more where transformers looks for padding in its mask. CandidateError if a logit is not finite.
    """

    def __init__(self, answers: Sequence[PartialAnswer], stops: StopSequences) -> None:
        self._unfinished = list(answers)
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
        """Decode every answer to its end; `stopping_criteria` is ignored in favour of each answer's own limits."""
        ends = end_tokens(generation_config)
        seq2seq = bool(model.config.is_encoder_decoder)
        outputs = model._prefill(input_ids, generation_config, inputs)
        inputs = model._update_model_kwargs_for_generation(outputs, inputs, is_encoder_decoder=seq2seq)
        rows = [answer.prompt for answer in self._unfinished]
        logits = outputs.logits[rows, -1]
        input_ids, inputs = _select_inputs(input_ids, inputs, logits_processor, rows)
        if seq2seq:
            for answer, start in zip(self._unfinished, input_ids.tolist(), strict=True):
                answer.tokens += start
        while True:
            tokens = self._next(logits_processor(input_ids, logits.float()), logits)
            input_ids = torch.cat([input_ids, tokens[:, None]], dim=1)
            rows = self._remove_finished(ends)
            if not rows:
                return input_ids
            input_ids, inputs = _select_inputs(input_ids, inputs, logits_processor, rows)
            outputs = model(**model.prepare_inputs_for_generation(input_ids, next_sequence_length=1, **inputs))
            inputs = model._update_model_kwargs_for_generation(outputs, inputs, is_encoder_decoder=seq2seq)
            logits = outputs.logits[:, -1]

    def _next(self, scores: Tensor, logits: Tensor) -> Tensor:
        """Choose the next token of each answer and append it."""
        if self._unfinished[0].draws is None:
            tokens = scores.argmax(-1)
        else:
            draws = [answer.draws[len(answer.tokens)] for answer in self._unfinished if answer.draws is not None]
            tokens = _sampled(scores, torch.stack(draws).to(scores.device))
        least, largest = torch.aminmax(logits)  # NaN if there is one
        finite = least.isfinite() & largest.isfinite()
        *values, is_finite = torch.cat([tokens, finite.long()[None]]).tolist()
        if not is_finite:
            raise CandidateError(NOT_FINITE)
        for answer, token in zip(self._unfinished, values, strict=True):
            answer.tokens.append(token)
        return tokens

    def _remove_finished(self, ends: frozenset[int]) -> list[int]:
        """Remove finished answers and return the former row of each remaining one; the last rows fill the gaps."""
        reached = self._stops.reached([answer.tokens for answer in self._unfinished])
        for answer, stop in zip(self._unfinished, reached, strict=True):
            answer.stopped = stop or answer.tokens[-1] in ends
        done = [answer.stopped or len(answer.tokens) >= answer.limit for answer in self._unfinished]
        left = len(done) - sum(done)
        tail = iter([row for row in range(left, len(done)) if not done[row]])
        rows = [next(tail) if done[row] else row for row in range(left)]
        self._unfinished = [self._unfinished[row] for row in rows]
        return rows


def _sampled(scores: Tensor, draws: Tensor) -> Tensor:
    """The first token whose cumulative probability exceeds each draw from [0, 1), in float64 to be unbiased."""
    below = scores.softmax(-1).double().cumsum(-1)
    return torch.searchsorted(below, (draws * below[:, -1])[:, None], right=True).squeeze(1)


def end_tokens(config: GenerationConfig) -> frozenset[int]:
    """The end-of-sequence tokens of a generation configuration."""
    eos = config.eos_token_id
    if eos is None:
        return frozenset()
    return frozenset([eos] if isinstance(eos, int) else eos)


def refuse_nonfinite_logits(input_ids: Tensor, scores: Tensor) -> Tensor:
    """A logits processor that returns its input; CandidateError on NaN or +inf, while -inf marks a masked token."""
    if not (scores < float("inf")).all():
        raise CandidateError(NOT_FINITE)
    return scores


def _select_inputs(
    input_ids: Tensor, inputs: dict[str, Any], processors: Iterable[Any], rows: list[int]
) -> tuple[Tensor, dict[str, Any]]:
    """Replace row i by the former row `rows[i]`, in the ids, the model's inputs and the logits processors."""
    if rows == list(range(len(input_ids))):
        return input_ids, inputs
    selection = RowSelection.of(rows, input_ids.device)
    for processor in processors:  # a repetition penalty stores the length of each row's padding
        padding = getattr(processor, "prompt_ignore_length", None)
        if isinstance(padding, Tensor):
            processor.prompt_ignore_length = padding[selection.indices]
    return input_ids[selection.indices], {name: _select(value, selection, name) for name, value in inputs.items()}


def _select(value: Any, rows: RowSelection, name: str = "") -> Any:
    if isinstance(value, Cache):
        select_rows(value, rows)
    elif isinstance(value, Tensor):  # positions of several axes are [axes, rows, tokens]
        return value[:, rows.indices] if name == "position_ids" and value.ndim == 3 else value[rows.indices]
    elif isinstance(value, ModelOutput):
        return type(value)(**{name: _select(part, rows) for name, part in value.items()})
    return value
