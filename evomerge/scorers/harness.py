"""The plain path: log-likelihoods by lm-eval's own Hugging Face model class around a live model."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.scorers.head import Answers, refuse_infinite
from evomerge.scorers.tree import Pair


class HarnessEngine:
    """Answers with whatever weights the model has when it is asked; nothing is cached between calls.

    Log-softmax is taken in fp32 whatever the model's dtype. Place the model on its device first; it is put in
    evaluation mode. The tokenizer is copied, because lm-eval gives it a padding token.
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
        asked: list[Any] = [(None, list(pair.context), list(pair.continuation)) for pair in pairs]
        answers: Answers = self._lm._loglikelihood_tokens(asked, disable_tqdm=True)
        refuse_infinite(value for value, _ in answers)
        return answers
