"""The tree engine: log-likelihoods from packed token trees, in which shared beginnings are computed once."""

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from evomerge.scoring.engine.batches import Batch, BatchPlan
from evomerge.scoring.engine.caches import KVStates, cache_argument
from evomerge.scoring.engine.head import LogLikelihoods, log_normalisers, refuse_nonfinite, restrict_head
from evomerge.scoring.engine.prefix_cache import prefix_cache
from evomerge.scoring.engine.tree import Tokens


class TreeEngine:
    """Computes batch plans with the model's current weights; cached prefixes stay valid until `forget`.

    The model itself is unchanged: it is called with a tree attention mask, explicit positions and a KV cache. Only the
    scored states reach its output head; soft-capping or scaling after the head still applies.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cached: dict[Tokens, KVStates] = {}

    def forget(self) -> None:
        """Discard the cached prefixes; to be called when the weights have changed."""
        self._cached.clear()

    def score(self, plan: BatchPlan) -> LogLikelihoods:
        """(log-likelihood in nats, is greedy) per pair; CandidateError if a log-likelihood is not finite.

        Log-softmax is computed in fp32, sums in float64 on the host, with one device synchronisation per plan.
        """
        used: set[Tokens] = set()
        found = [self._run(batch, used) for batch in plan.batches]
        self._cached = {prefix: states for prefix, states in self._cached.items() if prefix in used}
        values, hits = torch.cat([part for part in found if part is not None], dim=1).cpu().double().numpy()
        pairs = np.concatenate([batch.pairs for batch in plan.batches])
        sums = np.bincount(pairs, weights=values, minlength=plan.pairs)
        misses = np.bincount(pairs, weights=1.0 - hits, minlength=plan.pairs)
        refuse_nonfinite(sums)
        return [(float(value), bool(missed == 0)) for value, missed in zip(sums, misses, strict=True)]

    def sums(self, plan: BatchPlan) -> torch.Tensor:
        """The log-likelihood of each pair [pairs] in fp32 on the device, for differentiation; nothing is kept."""
        self.forget()
        found = [part for batch in plan.batches if (part := self._run(batch, set())) is not None]
        self.forget()
        pairs = torch.from_numpy(np.concatenate([batch.pairs for batch in plan.batches])).to(self._model.device)
        values = torch.cat([part[0] for part in found])
        return values.new_zeros(plan.pairs).index_add(0, pairs, values)

    def _run(self, batch: Batch, used: set[Tokens]) -> torch.Tensor | None:
        """[2, targets]: log-probability, and whether the target is the most likely token; None without targets.

        The prefix that the batch uses or computes is added to `used`.
        """
        prefix = batch.prefix + tuple(batch.tokens[0].tolist()) if batch.keep else batch.prefix
        used.add(prefix)
        if batch.keep and prefix in self._cached and not len(batch.states):
            return None  # an earlier chunk has the same prefix
        device = self._model.device
        states = torch.from_numpy(batch.states).to(device)
        past = self._past(batch)
        cache = {cache_argument(self._model.forward): past}
        with restrict_head(self._model, states):
            logits = self._model(
                input_ids=torch.from_numpy(batch.tokens).to(device),
                attention_mask=tree_mask(batch, self._model.dtype, device),
                position_ids=torch.from_numpy(batch.positions).to(device),
                use_cache=past is not None,
                **cache,
            ).logits[0]
        if batch.keep and past is not None:
            self._cached[prefix] = [(keys, values) for keys, values, _ in past]
        if not len(batch.states):
            return None
        return target_log_probabilities(
            logits, torch.from_numpy(batch.scored).to(device), torch.from_numpy(batch.targets).to(device)
        )

    def _past(self, batch: Batch) -> DynamicCache | None:
        """A KV cache with the batch's prefix in each row; None if the batch neither reads nor keeps one."""
        if not batch.prefix:
            return DynamicCache() if batch.keep else None
        states = self._cached[batch.prefix]
        return DynamicCache(states) if batch.keep else prefix_cache(states)


def tree_mask(batch: Batch, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The attention mask [rows, 1, length, prefix + length]: 0 where a token attends, else the lowest value.

    On CUDA torch's memory-efficient or cuDNN kernel takes such a mask, and flash attention takes none. The mask is in
    the model's dtype, as a boolean one would be converted in every layer, and has one head, which torch broadcasts.
    """
    ends = torch.from_numpy(batch.ends).to(device)
    place = torch.arange(ends.shape[1], device=device)
    attends = (place[None, None, :] <= place[None, :, None]) & (place[None, :, None] < ends[:, None, :])
    attends = torch.nn.functional.pad(attends, (len(batch.prefix), 0), value=True)
    lowest = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=device)
    return torch.where(attends, lowest.new_zeros(()), lowest).unsqueeze(1)


def target_log_probabilities(logits: torch.Tensor, scored: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[2, targets]: log-probabilities of the targets at the scored states, and whether each is the highest there."""
    norms, best = log_normalisers(logits), logits.argmax(-1)
    return torch.stack([logits[scored, targets].float() - norms[scored], (best[scored] == targets).float()])
