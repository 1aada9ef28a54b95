"""The plain path: log-likelihoods by lm-eval's own Hugging Face model class around a live model."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.scoring.engine.head import Answers, refuse_infinite
from evomerge.scoring.engine.tree import Pair


class HarnessEngine:
    """Answers with whatever weights the model has when it is asked; nothing is cached between calls.

    Log-softmax is taken in fp32 whatever the model's dtype. Place the model on its device first; it is put in
    evaluation mode. The tokenizer is copied, because lm-eval gives it a padding token. An encoder-decoder model gets
    answers of one length at a time: some make the decoder's first token from the last one, which padding would be.
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

    def pairs(self, pairs: Sequence[Pair]) -> Answers:
        """(log-likelihood, is greedy) of token pairs; CandidateError when a number is not finite."""
        if not pairs:
            return []
        lengths = [len(pair.continuation) if self._lm.backend == "seq2seq" else 0 for pair in pairs]
        found: dict[int, tuple[float, bool]] = {}
        for length in sorted(set(lengths)):
            places = [place for place, own in enumerate(lengths) if own == length]
            found |= zip(places, self._asked([pairs[place] for place in places]), strict=True)
        refuse_infinite(value for value, _ in found.values())
        return [found[place] for place in range(len(pairs))]

    def _asked(self, pairs: Sequence[Pair]) -> Answers:
        asked: list[Any] = [(None, list(pair.context), list(pair.continuation)) for pair in pairs]
        answers: Answers = self._lm._loglikelihood_tokens(asked, disable_tqdm=True)
        return answers
