"""Generation of answers to lm-eval's `generate_until` requests, with shared prefixes computed once."""

import copy
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from lm_eval.models.utils import configure_pad_token, resolve_max_length
from lm_eval.models.utils_hf import stop_sequences_criteria
from torch import Tensor
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import CandidateError
from evomerge.scoring import SEED, Answer, Request
from evomerge.scoring.engine.caches import (
    KVStates,
    cache_argument,
    compute_prefix,
    forget_offsets,
    new_kv_cache,
    start_with_prefix,
    supports_shared_prefixes,
)
from evomerge.scoring.engine.decoding import (
    DecodingLoop,
    PartialAnswer,
    end_tokens,
    refuse_nonfinite_logits,
)
from evomerge.scoring.engine.generation_options import SUPPORTED, GenerationOptions
from evomerge.scoring.engine.memory import MemoryBudget
from evomerge.scoring.engine.prefill import saves_padding, start_with_prompts
from evomerge.scoring.engine.prompts import Ids, Prompt, batch_tokens, group_by_prefix, sample_seed
from evomerge.scoring.engine.request_reader import RequestReader
from evomerge.scoring.engine.stops import StopSequences
from evomerge.scoring.engine.windows import fixed_position_length

log = logging.getLogger(__name__)


class Generator(RequestReader):
    """Generates the answers to `generate_until` requests with the model's current weights.

    Greedy answers are those of lm-eval's Hugging Face class at batch size 1, independent of the batches here. A sampled
    answer depends on its context, its number among the repeats and lm-eval's seed alone. As in lm-eval, a context is
    truncated on the left to leave room for `max_gen_toks`, and an empty one is replaced by the prefix token. A batch
    has at most `max_tokens` = rows × (context + answer) tokens. The tokenizer is copied, because it gets a padding
    token. An encoder-decoder model may write as many tokens more as the context has, as in lm-eval, or none more if
    `counts_context` is False.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens: int = 16384,
        max_length: int | None = None,
        counts_context: bool = True,
    ) -> None:
        padded = configure_pad_token(copy.deepcopy(tokenizer), model_config=model.config)
        super().__init__(model.config, padded, max_length or resolve_max_length(model.config, tokenizer))
        self._model, self._counts_context = model, counts_context
        self._budget = MemoryBudget(max_tokens)
        self._known_stops: dict[tuple[str, ...], StopSequences] = {}
        self._fixed_position_length = fixed_position_length(model.config)

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request]) -> list[Answer | list[Answer]]:
        """See `RequestReader.answer`."""
        return super().answer(requests)

    @property
    def is_exact(self) -> bool:
        """Whether the order of logits does not depend on the batch, up to rounding in float32."""
        return bool(self._model.dtype == torch.float32)

    @cached_property
    def loop_refusal(self) -> str | None:
        """Why this model cannot use the decoding loop, or None if it gives the answers of `generate` on two prompts.

        The two have a common beginning and other lengths, and are computed in each way in which a batch may start. In
        half precision a batch may change the order of nearly equal logits, so there the loop only has to run.
        """
        trial = GenerationOptions((), 4, {"do_sample": False})
        vocabulary = self._model.config.get_text_config().vocab_size
        draw = torch.randint(vocabulary, (2, 24), generator=torch.Generator().manual_seed(SEED)).tolist()
        long, other = (tuple(ids) for ids in draw)
        prompts = [Prompt(long, 1), Prompt(long[:8] + other[:3], 1)]
        try:
            ours = list(self._trials(prompts, trial, long[:8]))
            reason = None
        except CandidateError:
            raise
        except Exception as error:  # a model's custom code may raise anything for arguments that it does not support
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if not reason and self.is_exact and trial.settings(self._model.generation_config) <= SUPPORTED:
            expected = {prompt.ids: [self._generate_alone(prompt.ids, 0, trial)] for prompt in prompts}
            reason = None if all(found == expected for found in ours) else "the two differ on a trial prompt"
        if reason:
            log.warning("answers are generated one by one, not by the decoding loop: %s", reason)
        return reason

    def _trials(
        self, prompts: Sequence[Prompt], options: GenerationOptions, common: Ids
    ) -> Iterator[dict[Ids, list[Answer]]]:
        """The answers with the common beginning computed for each prompt or once, padded or apart from each other."""
        cache = new_kv_cache(self._model)
        shared = cache is not None and supports_shared_prefixes(cache)
        for prefix in ((), common) if shared else ((),):
            states = compute_prefix(self._model, prefix) if prefix else []
            for apart in (False, True) if shared else (False,):
                found: dict[Ids, list[Answer]] = {}
                self._batch(prompts, options, prefix, states, found, apart)
                yield found

    def _generate(self, prompts: Sequence[Prompt], options: GenerationOptions) -> dict[Ids, list[Answer]]:
        found: dict[Ids, list[Answer]] = {}
        ordered = sorted(prompts, key=lambda prompt: -len(prompt.ids))
        cache = new_kv_cache(self._model)
        longest = len(ordered[0].ids) + options.max_gen_toks
        settings = options.settings(self._model.generation_config)
        unsupported = "max_length" in options.generate_kwargs or not settings <= SUPPORTED
        alone = unsupported or longest > self._fixed_position_length
        if cache is None or alone or self.loop_refusal:
            return {
                prompt.ids: [self._generate_alone(prompt.ids, i, options) for i in range(prompt.answers)]
                for prompt in prompts
            }
        shared = supports_shared_prefixes(cache) and "repetition_penalty" not in settings  # it would punish padding
        for prefix, members in group_by_prefix(ordered) if shared else [((), ordered)]:
            states = compute_prefix(self._model, prefix) if prefix else []
            work = partial(self._batch, options=options, prefix=prefix, states=states, found=found)
            self._budget.run(members, partial(batch_tokens, options=options), work)
        return found

    def _batch(
        self,
        prompts: Sequence[Prompt],
        options: GenerationOptions,
        prefix: Ids,
        states: KVStates,
        found: dict[Ids, list[Answer]],
        apart: bool | None = None,
    ) -> None:
        """Decode one batch of prompts, the longest first, into `found`.

        Padding is between the shared prefix and the rest of a prompt; for an encoder it is at the end. With `apart`, by
        default where that is faster, prompts of different lengths are computed apart from each other, without padding.
        """
        answers = [part for row, prompt in enumerate(prompts) for part in self._partial_answers(row, prompt, options)]
        rows = [self._padded(prompt.ids, len(prefix), len(prompts[0].ids)) for prompt in prompts]
        cache = self._start(prompts, len(prefix), states, apart)
        forget_offsets(self._model)
        longest = max(answer.limit for answer in answers)
        generating: Any = self._model
        cache_option: dict[str, Any] = {cache_argument(generating.prepare_inputs_for_generation): cache}
        self._call(
            *torch.tensor(rows, device=self._model.device).unbind(1),
            max_length=longest if self._seq2seq else len(prompts[0].ids) + longest,
            custom_generate=DecodingLoop(answers, self._stops(options.until)),
            **cache_option | dict(options.generate_kwargs),
        )
        for row, prompt in enumerate(prompts):
            found[prompt.ids] = [
                self._text(part.tokens, part.stopped, options) for part in answers if part.prompt == row
            ]

    def _start(self, prompts: Sequence[Prompt], prefix: int, states: KVStates, apart: bool | None) -> Cache | None:
        """A cache that has the shared prefix, and with `apart` all tokens of the prompts but the last of each."""
        cache = new_kv_cache(self._model)
        if cache is None or not supports_shared_prefixes(cache):
            return cache
        rests = [prompt.ids[prefix:] for prompt in prompts]
        if saves_padding([len(rest) for rest in rests], self._model.device) if apart is None else apart:
            start_with_prompts(cache, self._model, states, rests)
        elif states:
            start_with_prefix(cache, states, len(rests))
        return cache

    def _stops(self, until: tuple[str, ...]) -> StopSequences:
        if until not in self._known_stops:
            self._known_stops[until] = StopSequences(self._tokenizer, until)
        return self._known_stops[until]

    def _partial_answers(self, row: int, prompt: Prompt, options: GenerationOptions) -> Iterator[PartialAnswer]:
        limit = options.max_gen_toks + (self._extra(prompt.ids) if self._seq2seq else 0)
        for number in range(prompt.answers):
            draws = None
            if options.sampled:
                stream = torch.Generator().manual_seed(sample_seed(prompt.ids, number))
                draws = torch.rand(limit, generator=stream, dtype=torch.float64)
            yield PartialAnswer(row, limit, draws)

    def _extra(self, ids: Ids) -> int:
        """The tokens of an encoder-decoder answer beside those that are asked for; its start token is one of them."""
        return len(ids) if self._counts_context else 1

    def _padded(self, ids: Ids, prefix: int, width: int) -> tuple[list[int], list[int]]:
        """Tokens and attention mask."""
        padding = [self._tokenizer.pad_token_id] * (width - len(ids))
        gap = len(ids) if self._seq2seq else prefix
        mask = [1] * gap + [0] * len(padding) + [1] * (len(ids) - gap)
        return [*ids[:gap], *padding, *ids[gap:]], mask

    def _generate_alone(self, ids: Ids, number: int, options: GenerationOptions) -> Answer:
        """One answer by `generate` with its own loop, as lm-eval calls it, for options that ours does not support."""
        before = self._extra(ids) if self._seq2seq else len(ids)
        settings = {"max_length": before + options.max_gen_toks, **options.generate_kwargs}
        tokens = torch.tensor([ids], device=self._model.device)
        with torch.random.fork_rng(devices=[self._model.device] if self._model.device.type == "cuda" else []):
            torch.manual_seed(sample_seed(ids, number))
            generated = self._call(
                tokens,
                torch.ones_like(tokens),
                stopping_criteria=stop_sequences_criteria(self._tokenizer, list(options.until), len(ids), 1),
                logits_processor=[refuse_nonfinite_logits],
                **settings,
            )[0].tolist()
        stopped = len(generated) < settings["max_length"] or generated[-1] in end_tokens(self._model.generation_config)
        return self._text(generated if self._seq2seq else generated[len(ids) :], stopped, options)

    def _call(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        generate: Any = self._model.generate
        generated: Tensor = generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pad_token_id=self._tokenizer.pad_token_id,
            use_cache=True,
            **options,
        )
        return generated
