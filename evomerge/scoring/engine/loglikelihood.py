"""The tree engine: log-likelihoods from packed token trees, each distinct token computed once."""

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from evomerge.scoring.engine.batches import Batch, BatchPlan
from evomerge.scoring.engine.caches import cache_keyword
from evomerge.scoring.engine.head import Answers, refuse_infinite, restrict_head
from evomerge.scoring.engine.tree import Tokens

KeysValues = list[tuple[torch.Tensor, torch.Tensor]]  # of every layer, each [1, heads, tokens, width]

BLOCK = 256  # states whose logits are turned into fp32 at a time


class TreeEngine:
    """Answers batch plans with whatever weights the model has; cached beginnings live until `forget`.

    The model is called as it is, with a tree mask, explicit positions and a key/value cache; only the states that
    are scored reach its output head, so that caps and scales after the head keep their effect.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cached: dict[Tokens, KeysValues] = {}

    def forget(self) -> None:
        """The weights have changed: cached beginnings are void."""
        self._cached.clear()

    def score(self, plan: BatchPlan) -> Answers:
        """(log-likelihood in nats, is greedy) per pair; CandidateError where a number is not finite.

        Log-softmax in fp32, sums in float64 on the host, one device synchronisation a plan.
        """
        used: set[Tokens] = set()
        found = [self._run(batch, used) for batch in plan.batches]
        self._cached = {prefix: held for prefix, held in self._cached.items() if prefix in used}
        values, hits = torch.cat([part for part in found if part is not None], dim=1).cpu().double().numpy()
        pairs = np.concatenate([batch.pairs for batch in plan.batches])
        sums = np.bincount(pairs, weights=values, minlength=plan.pairs)
        misses = np.bincount(pairs, weights=1.0 - hits, minlength=plan.pairs)
        refuse_infinite(sums)
        return [(float(value), bool(missed == 0)) for value, missed in zip(sums, misses, strict=True)]

    def _run(self, batch: Batch, used: set[Tokens]) -> torch.Tensor | None:
        """[2, scored]: log-probability and whether the target is the likeliest token; None without scored tokens."""
        inner = batch.prefix + tuple(batch.tokens[0].tolist()) if batch.keep else batch.prefix
        used.add(inner)
        if batch.keep and inner in self._cached and not len(batch.states):
            return None  # the last chunk had the same beginning
        device = self._model.device
        states = torch.from_numpy(batch.states).to(device)
        past = self._past(batch)
        held = {cache_keyword(self._model.forward): past}
        with restrict_head(self._model, states):
            logits = self._model(
                input_ids=torch.from_numpy(batch.tokens).to(device),
                attention_mask=tree_mask(batch, self._model.dtype, device),
                position_ids=torch.from_numpy(batch.positions).to(device),
                use_cache=past is not None,
                **held,
            ).logits[0]
        if batch.keep and past is not None:
            self._cached[inner] = [(keys, values) for keys, values, _ in past]
        if not len(batch.states):
            return None
        return _chosen(logits, torch.from_numpy(batch.scored).to(device), torch.from_numpy(batch.targets).to(device))

    def _past(self, batch: Batch) -> DynamicCache | None:
        """A cache that holds the batch's prefix for each of its rows; None where none is read or kept."""
        if not batch.prefix:
            return DynamicCache() if batch.keep else None
        rows = len(batch.tokens)
        held = self._cached[batch.prefix]
        return DynamicCache([(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in held])


def tree_mask(batch: Batch, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[rows, 1, length, prefix + length], to be added to attention scores: 0 where a token may look."""
    ends = torch.from_numpy(batch.ends).to(device)
    place = torch.arange(ends.shape[1], device=device)
    sees = (place[None, None, :] <= place[None, :, None]) & (place[None, :, None] < ends[:, None, :])
    sees = torch.nn.functional.pad(sees, (len(batch.prefix), 0), value=True)
    return torch.where(sees, 0.0, torch.finfo(dtype).min).to(dtype).unsqueeze(1)


def _chosen(logits: torch.Tensor, scored: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the targets at the scored states, and whether each is the largest there."""
    norms = torch.empty(len(logits), device=logits.device)
    best = torch.empty(len(logits), dtype=targets.dtype, device=logits.device)
    for start in range(0, len(logits), BLOCK):
        block = slice(start, start + BLOCK)
        norms[block] = logits[block].float().logsumexp(-1)
        best[block] = logits[block].argmax(-1)
    return torch.stack([logits[scored, targets].float() - norms[scored], (best[scored] == targets).float()])
