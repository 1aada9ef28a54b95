"""The plain path: log-likelihoods from lm-eval's own Hugging Face model class."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.scoring.engine.head import LogLikelihoods, refuse_nonfinite
from evomerge.scoring.engine.tree import Pair


class PlainEngine:
    """Computes log-likelihoods with the model's current weights; nothing is cached between calls.

    Log-softmax is computed in fp32 for every model dtype. The model must be on its device; it is put in evaluation
    mode. The tokenizer is copied, because lm-eval sets its padding token. An encoder-decoder model gets continuations
    of one length at a time, because some models derive the decoder's first token from the last one, which must not be
    padding.
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
        self._lm = HFLM(
            pretrained=model,
            tokenizer=copy.deepcopy(tokenizer),
            backend="seq2seq" if model.config.is_encoder_decoder else "causal",
            batch_size=batch_size,
            max_length=max_length,
            softmax_dtype="float32",
        )

    def score(self, pairs: Sequence[Pair]) -> LogLikelihoods:
        """(log-likelihood, is greedy) of token pairs; CandidateError if a log-likelihood is not finite."""
        if not pairs:
            return []
        lengths = [len(pair.continuation) if self._lm.backend == "seq2seq" else 0 for pair in pairs]
        found: dict[int, tuple[float, bool]] = {}
        for length in sorted(set(lengths)):
            places = [place for place, pair_length in enumerate(lengths) if pair_length == length]
            found |= zip(places, self._run([pairs[place] for place in places]), strict=True)
        refuse_nonfinite(value for value, _ in found.values())
        return [found[place] for place in range(len(pairs))]

    def _run(self, pairs: Sequence[Pair]) -> LogLikelihoods:
        requests: list[Any] = [(None, list(pair.context), list(pair.continuation)) for pair in pairs]
        found: LogLikelihoods = self._lm._loglikelihood_tokens(requests, disable_tqdm=True)
        return found
