"""Log-likelihoods of encoder-decoder models, in which each context is encoded once for all its continuations."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from evomerge.scoring.engine.head import LogLikelihoods, log_normalisers, refuse_nonfinite, restrict_head
from evomerge.scoring.engine.memory import MemoryBudget
from evomerge.scoring.engine.tree import Pair, Tokens


@dataclass
class _Row:
    """A distinct input of encoder and decoder, and the pairs that are scored from its logits."""

    context: Tokens
    shifted: Tokens  # the decoder's input
    pairs: list[tuple[int, Tokens]] = field(default_factory=list)  # (index of the pair, its continuation)


class Seq2SeqScorer:
    """Computes the log-likelihoods of (context, continuation) pairs with the model's current weights.

    Contexts and continuations are truncated on the left to `max_length` tokens, as in lm-eval. A batch has at most
    `max_tokens` = rows × (context + continuation) tokens. Continuations of one context with equal decoder inputs share
    a row.
    """

    def __init__(self, model: PreTrainedModel, *, max_length: int, max_tokens: int = 16384) -> None:
        self._model = model
        self._max_length = max_length
        self._budget = MemoryBudget(max_tokens)

    @torch.inference_mode()
    def score(self, pairs: Sequence[Pair]) -> LogLikelihoods:
        """(log-likelihood in nats, is greedy) per pair; CandidateError if a log-likelihood is not finite.

        Logits are computed at scored positions only, log-softmax in fp32, with one device synchronisation per batch.
        """
        scores: LogLikelihoods = [(0.0, False)] * len(pairs)

        def run(rows: Sequence[_Row]) -> None:
            for number, value, greedy in self._run(rows):
                scores[number] = value, greedy

        self._budget.run(self._rows(pairs), _cost, run)
        refuse_nonfinite(value for value, _ in scores)
        return scores

    def _rows(self, pairs: Sequence[Pair]) -> list[_Row]:
        """The distinct rows, longest context first, with the rows of one context next to each other."""
        sides = [(pair.context[-self._max_length :], pair.continuation[-self._max_length :]) for pair in pairs]
        shifted = self._shifted({target for _, target in sides})
        rows: dict[tuple[Tokens, Tokens], _Row] = {}
        for number, (source, target) in enumerate(sides):
            row = rows.setdefault((source, shifted[target]), _Row(source, shifted[target]))
            row.pairs.append((number, target))
        return sorted(rows.values(), key=lambda row: (-len(row.context), row.context, -len(row.shifted)))

    def _shifted(self, targets: set[Tokens]) -> dict[Tokens, Tokens]:
        """The decoder's input for each continuation, by the model's own rule (mBART moves the last token to the front).

        Continuations are shifted by groups of equal length, because padding would change the result of such a rule.
        """
        shift: Any = self._model.prepare_decoder_input_ids_from_labels
        found: dict[Tokens, Tokens] = {}
        for _, group in groupby(sorted(targets, key=len), key=len):
            members = list(group)
            found |= zip(members, map(tuple, shift(labels=torch.tensor(members)).tolist()), strict=True)
        return found

    def sums(self, pairs: Sequence[Pair]) -> Tensor:
        """The log-likelihood of each pair [pairs] in fp32 on the device, in one batch, for differentiation."""
        rows = self._rows(pairs)
        values, _ = self._targets(rows)
        owners = [number for row in rows for number, target in row.pairs for _ in target]
        where = torch.tensor(owners, device=values.device)
        return values.new_zeros(len(pairs)).index_add(0, where, values)

    def _targets(self, rows: Sequence[_Row]) -> tuple[Tensor, Tensor]:
        """[targets]: log-probability, and whether another token is more likely."""
        logits = self._logits(rows)
        marks = torch.tensor(list(_marks(rows)), device=self._model.device)
        where, targets = marks[:, 0], marks[:, 1]
        values = logits[where, targets].float() - log_normalisers(logits)[where]
        return values, (logits.argmax(-1)[where] != targets).float()

    def _run(self, rows: Sequence[_Row]) -> Iterator[tuple[int, float, bool]]:
        values, misses = self._targets(rows)
        pairs = [pair for row in rows for pair in row.pairs]
        parts = torch.stack([values, misses]).cpu().double().split([len(target) for _, target in pairs], dim=1)
        for (number, _), part in zip(pairs, parts, strict=True):
            value, missed = part.sum(1).tolist()
            yield number, value, missed == 0

    def _logits(self, rows: Sequence[_Row]) -> Tensor:
        """Logits [scored positions of all rows, vocabulary]."""
        contexts = {context: number for number, context in enumerate(dict.fromkeys(row.context for row in rows))}
        source, mask = self._padded(contexts)
        hidden = self._model.get_encoder()(input_ids=source, attention_mask=mask).last_hidden_state
        context_of_row = torch.tensor([contexts[row.context] for row in rows], device=self._model.device)
        shifted, scored = self._padded([row.shifted for row in rows])
        with restrict_head(self._model, scored.flatten().nonzero().squeeze(1)):
            logits: Tensor = self._model(
                encoder_outputs=BaseModelOutput(last_hidden_state=hidden[context_of_row]),
                attention_mask=mask[context_of_row],
                decoder_input_ids=shifted,
                use_cache=False,
            ).logits[0]
        return logits

    def _padded(self, sequences: Iterable[Tokens]) -> tuple[Tensor, Tensor]:
        """Token ids padded with zeros on the right, as in lm-eval, and the attention mask."""
        ids = [torch.tensor(sequence) for sequence in sequences]
        real = [torch.ones_like(sequence) for sequence in ids]
        device = self._model.device
        return pad_sequence(ids, batch_first=True).to(device), pad_sequence(real, batch_first=True).to(device)


def _marks(rows: Sequence[_Row]) -> Iterator[tuple[int, int]]:
    """(row of the logits, target token) for every token of every pair."""
    start = 0
    for row in rows:
        for _, target in row.pairs:
            yield from enumerate(target, start)
        start += len(row.shifted)


def _cost(rows: Sequence[_Row]) -> int:
    return len(rows) * (len(rows[0].context) + max(len(row.shifted) for row in rows))
