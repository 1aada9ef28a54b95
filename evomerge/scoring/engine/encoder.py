"""Requests as token ids, by lm-eval's own tokenisation, and the batches that answer them; made once, in the driver."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import configure_pad_token, resolve_max_length
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from evomerge.errors import TaskError
from evomerge.scoring import Request
from evomerge.scoring.engine.batches import BatchPlan, plan
from evomerge.scoring.engine.tree import Costs, Pair

LOGITS = 512 * 2**20
"""Bytes of fp32 logits that a batch may hold."""
MANY = 1 << 30


@dataclass(frozen=True, eq=False)
class Work:
    """A chunk's requests, the token pairs that answer them, and the batches that compute those.

    `owners[i]` is the place of the request that pair i belongs to: a log-likelihood has one pair, a rolling one a
    pair for every window, a generation none. Encoder-decoder models have no batches.
    """

    requests: tuple[Request, ...]
    pairs: tuple[Pair, ...]
    owners: tuple[int, ...]
    batches: BatchPlan | None
    longest: int  # tokens of the longest input


class Encoder:
    """Tokenises as lm-eval's Hugging Face class does for a model of this config and tokenizer.

    `max_length` None is what the config says; `batch_tokens` bounds the tokens of one forward pass.
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
        states = max(64, LOGITS // (4 * text.vocab_size))
        self._costs = Costs(width=6 * int(text.hidden_size), most=batch_tokens, states=states)
        self.max_length = int(self._recorder.max_length)

    def work(self, requests: Sequence[Request]) -> Work:
        """The work of a chunk; TaskError names a prompt or an answer that cannot be scored."""
        pairs: list[Pair] = []
        owners: list[int] = []
        for place, request in enumerate(requests):
            found = self._recorder.pairs(request)
            self._refuse_unfit(found, f"{request.kind} of {_short(request.arguments)}")
            pairs += found
            owners += [place] * len(found)
        return self._planned(tuple(requests), pairs, owners)

    def asked(self, pairs: Sequence[Pair]) -> Work:
        """The work of token pairs alone, as lm-eval hands them to a model class; TaskError as in `work`."""
        self._refuse_unfit(pairs, "loglikelihood")
        return self._planned((), pairs, range(len(pairs)))

    def _planned(self, requests: tuple[Request, ...], pairs: Sequence[Pair], owners: Sequence[int]) -> Work:
        longest = max((len(pair.inputs(self.max_length)) for pair in pairs), default=0)
        batches = plan(pairs, self.max_length, self._costs) if self._trees and pairs else None
        return Work(requests, tuple(pairs), tuple(owners), batches, longest)

    def _refuse_unfit(self, pairs: Sequence[Pair], what: str) -> None:
        for pair in pairs:
            if not pair.context or not 0 < len(pair.continuation) <= self.max_length:
                raise TaskError(
                    f"{what} does not fit the model: a prompt of {len(pair.context)} tokens and an answer of "
                    f"{len(pair.continuation)}; neither may be empty, an answer has at most {self.max_length}: drop "
                    "the document, or raise max_length"
                )

    def smaller(self, work: Work, most: int) -> BatchPlan:
        """Batches of the same work with at most so many tokens, and scored positions, where one request has no more."""
        costs = replace(self._costs, most=most, states=min(self._costs.states, most))
        return plan(work.pairs, self.max_length, costs)


class _Recorder(HFLM):  # type: ignore[misc]
    """lm-eval's class without a model: it tokenises, splits and cuts into windows, and notes what it would score."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, max_length: int | None) -> None:
        self.tokenizer = configure_pad_token(copy.deepcopy(tokenizer), model_config=config)
        self.backend = "seq2seq" if config.is_encoder_decoder else "causal"
        self.add_bos_token = self.custom_prefix_token_id = self.enable_thinking = None
        self._max_length = max_length or resolve_max_length(config, self.tokenizer, default=self._DEFAULT_MAX_LENGTH)
        self._rank, self._world_size, self.batch_size_per_gpu = 0, 1, MANY
        self.cache_hook = CacheHook(None)
        self._seen: list[Pair] = []

    def pairs(self, request: Request) -> list[Pair]:
        """The token pairs of one request, none for a generation."""
        if request.kind == "generate_until":
            return []
        self._seen = []
        instance = Instance(request.kind, {}, request.arguments, 0)
        try:
            getattr(self, request.kind)([instance], disable_tqdm=True)
        except (AssertionError, IndexError):
            self._seen = [Pair((), ())]
        return self._seen

    def _loglikelihood_tokens(self, requests: Any, **options: Any) -> list[tuple[float, bool]]:
        self._seen += [Pair(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        return [(0.0, False)] * len(requests)


def _short(arguments: tuple[Any, ...]) -> str:
    text = repr(arguments)
    return text if len(text) <= 80 else f"{text[:40]} … {text[-37:]}"


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, is_encoder_decoder: bool) -> None:
    """Refuse an encoder-decoder tokenizer that does not close its input with </s>: it would score wrongly."""
    if not is_encoder_decoder:
        return
    ids = tokenizer("a").input_ids
    if tokenizer.eos_token_id is None or not ids or ids[-1] != tokenizer.eos_token_id:
        raise TaskError(
            f"the tokenizer of {tokenizer.name_or_path or 'the base'} does not end its input with "
            f"{tokenizer.eos_token or 'an end-of-sequence token'}; add it to its post-processor"
        )
