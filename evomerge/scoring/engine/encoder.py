"""Encoding of chunks: requests are tokenised by lm-eval's own code and planned into batches, once, in the driver."""

import copy
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import configure_pad_token, resolve_max_length
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from evomerge.errors import TaskError
from evomerge.scoring import ItemLoss, Request
from evomerge.scoring.engine.batches import BatchPlan, plan
from evomerge.scoring.engine.tree import Costs, Pair

MAX_LOGIT_BYTES = 512 * 2**20
"""The largest size of a batch's logits in fp32."""
NEVER = 1 << 40  # an overhead at which no shared beginning is worth a forward pass of its own
REMEMBERED = 16  # texts whose tokens are kept: the context of an item, and its texts so far
UNLIMITED = 1 << 30  # a batch size for lm-eval's class, so that it passes on all requests at once


@dataclass(frozen=True, eq=False)
class EncodedChunk:
    """A chunk's requests, their token pairs, and the batches that compute the pairs' log-likelihoods.

    `owners[i]` is the index of the request of pair i. A log-likelihood request has one pair, a rolling one has a pair
    for every window, and a generation request has none. There is no batch plan for encoder-decoder models.
    """

    requests: tuple[Request, ...]
    pairs: tuple[Pair, ...]
    owners: tuple[int, ...]
    batches: BatchPlan | None
    longest: int  # number of tokens of the longest input

    @property
    def tokens(self) -> tuple[int, int]:
        """The numbers of tokens that are computed, and that would be if each pair had a row of its own, unpadded."""
        plain = sum(len(pair.context) + len(pair.continuation) for pair in self.pairs)
        return (plain if self.batches is None else self.batches.tokens), plain


@dataclass(frozen=True, eq=False)
class EncodedLoss:
    """An item's loss with the token pairs of its requests; `owners[i]` is the index of the request of pair i."""

    loss: ItemLoss
    pairs: tuple[Pair, ...]
    owners: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """The number of tokens of the item if the requests share their context."""
        return max(len(pair.context) for pair in self.pairs) + sum(len(pair.continuation) for pair in self.pairs)

    @property
    def row_tokens(self) -> int:
        """The number of tokens of the item if each request has a row of its own."""
        return sum(len(pair.context) + len(pair.continuation) for pair in self.pairs)


class Encoder:
    """Tokenises as lm-eval's Hugging Face class does for a model with this config and tokenizer.

    `max_length` None takes the length from the config; `batch_tokens` is the largest number of tokens of a batch.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: PretrainedConfig,
        *,
        max_length: int | None = None,
        batch_tokens: int = 4096,
    ) -> None:
        self._recorder = _Recorder(tokenizer, config, max_length)
        self._trees = not config.is_encoder_decoder
        text = config.get_text_config()
        states = max(64, MAX_LOGIT_BYTES // (4 * text.vocab_size))
        self._costs = Costs(width=6 * int(text.hidden_size), max_tokens=batch_tokens, max_states=states)
        self.max_length = int(self._recorder.max_length)

    def encode(self, requests: Sequence[Request]) -> EncodedChunk:
        """Encode the requests of a chunk; TaskError names a prompt or an answer that does not fit the model."""
        pairs, owners = self._pairs(requests)
        return self._plan(tuple(requests), pairs, owners)

    def encode_loss(self, loss: ItemLoss) -> EncodedLoss:
        """Encode the requests of an item's loss; TaskError as in `encode`."""
        pairs, owners = self._pairs(loss.requests)
        return EncodedLoss(loss, tuple(pairs), tuple(owners))

    def _pairs(self, requests: Sequence[Request]) -> tuple[list[Pair], list[int]]:
        pairs: list[Pair] = []
        owners: list[int] = []
        for place, (request, found) in enumerate(zip(requests, self._recorder.all_pairs(requests), strict=True)):
            self._refuse_unfit(found, f"{request.kind} of {_short(request.arguments)}")
            pairs += found
            owners += [place] * len(found)
        return pairs, owners

    def encode_pairs(self, pairs: Sequence[Pair]) -> EncodedChunk:
        """Encode token pairs without requests, as lm-eval passes them to a model class; TaskError as in `encode`."""
        self._refuse_unfit(pairs, "loglikelihood")
        return self._plan((), pairs, range(len(pairs)))

    def _plan(self, requests: tuple[Request, ...], pairs: Sequence[Pair], owners: Sequence[int]) -> EncodedChunk:
        longest = max((len(pair.inputs(self.max_length)) for pair in pairs), default=0)
        batches = plan(pairs, self.max_length, self._costs) if self._trees and pairs else None
        return EncodedChunk(requests, tuple(pairs), tuple(owners), batches, longest)

    def _refuse_unfit(self, pairs: Sequence[Pair], what: str) -> None:
        for pair in pairs:
            if not pair.context or not 0 < len(pair.continuation) <= self.max_length:
                raise TaskError(
                    f"{what} does not fit the model: a prompt of {len(pair.context)} tokens and an answer of "
                    f"{len(pair.continuation)}; neither may be empty, an answer has at most {self.max_length}: drop "
                    "the document, or raise max_length"
                )

    def batches(self, pairs: Sequence[Pair], max_tokens: int, cached: bool = True) -> BatchPlan:
        """Batches of at most `max_tokens` tokens and scored positions, or of a single unit.

        Without `cached`, shared beginnings are repeated in each unit instead of being kept in a KV cache.
        """
        costs = replace(self._costs, max_tokens=max_tokens, max_states=min(self._costs.max_states, max_tokens))
        return plan(pairs, self.max_length, costs if cached else replace(costs, overhead=NEVER))


class _Recorder(HFLM):  # type: ignore[misc]
    """lm-eval's class without a model: it tokenises and splits requests, and records the pairs that it would score."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, max_length: int | None) -> None:
        self.tokenizer = configure_pad_token(copy.deepcopy(tokenizer), model_config=config)
        self.backend = "seq2seq" if config.is_encoder_decoder else "causal"
        self.add_bos_token = self.custom_prefix_token_id = self.enable_thinking = None
        self._max_length = max_length or resolve_max_length(config, self.tokenizer, default=self._DEFAULT_MAX_LENGTH)
        self._rank, self._world_size, self.batch_size_per_gpu = 0, 1, UNLIMITED
        self.cache_hook = CacheHook(None)
        self._seen: list[Pair] = []
        self._encode = lru_cache(REMEMBERED)(super().tok_encode)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        """The parent's token ids; the choices of an item share their context, which is tokenised once."""
        tokens: list[int] = self._encode(string, add_special_tokens, **options)
        return tokens

    def all_pairs(self, requests: Sequence[Request]) -> list[list[Pair]]:
        """The token pairs of each request; log-likelihoods are tokenised in one call where none is refused."""
        if all(request.kind == "loglikelihood" for request in requests):
            self._seen = []
            with suppress(AssertionError, IndexError):
                self.loglikelihood([_instance(request) for request in requests], disable_tqdm=True)
                return [[pair] for pair in self._seen]
        return [self.pairs(request) for request in requests]

    def pairs(self, request: Request) -> list[Pair]:
        """The token pairs of one request; none for a generation request."""
        if request.kind == "generate_until":
            return []
        self._seen = []
        try:
            getattr(self, request.kind)([_instance(request)], disable_tqdm=True)
        except (AssertionError, IndexError):
            self._seen = [Pair((), ())]
        return self._seen

    def _loglikelihood_tokens(self, requests: Any, **options: Any) -> list[tuple[float, bool]]:
        self._seen += [Pair(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        return [(0.0, False)] * len(requests)


def _instance(request: Request) -> Instance:
    return Instance(request.kind, {}, request.arguments, 0)


def _short(arguments: tuple[Any, ...]) -> str:
    text = repr(arguments)
    return text if len(text) <= 80 else f"{text[:40]} … {text[-37:]}"


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, is_encoder_decoder: bool) -> None:
    """TaskError for an encoder-decoder tokenizer that does not end its input with </s>, as scores would be wrong."""
    if not is_encoder_decoder:
        return
    ids = tokenizer("a").input_ids
    if tokenizer.eos_token_id is None or not ids or ids[-1] != tokenizer.eos_token_id:
        raise TaskError(
            f"the tokenizer of {tokenizer.name_or_path or 'the base'} does not end its input with "
            f"{tokenizer.eos_token or 'an end-of-sequence token'}; add it to its post-processor"
        )
