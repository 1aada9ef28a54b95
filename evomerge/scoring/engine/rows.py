"""Log-likelihoods from one padded row per pair, for models in which token trees do not work."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from evomerge.scoring.engine.head import log_normalisers, restrict_head
from evomerge.scoring.engine.tree import Pair


def row_sums(model: PreTrainedModel, pairs: Sequence[Pair], max_length: int) -> Tensor:
    """The log-likelihood of each pair [pairs] in fp32 on the device, in one batch, for differentiation.

    Rows are padded on the right, as in lm-eval, and truncated on the left to `max_length` tokens.
    """
    device = model.device
    inputs = [torch.tensor(pair.inputs(max_length)) for pair in pairs]
    tokens = pad_sequence(inputs, batch_first=True).to(device)
    mask = pad_sequence([torch.ones_like(row) for row in inputs], batch_first=True).to(device)
    ends = [number * tokens.shape[1] + len(row) for number, row in enumerate(inputs)]
    lengths = [len(pair.continuation) for pair in pairs]
    states = torch.cat([torch.arange(end - n, end) for end, n in zip(ends, lengths, strict=True)]).to(device)
    with restrict_head(model, states):
        logits: Tensor = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[0]
    targets = torch.tensor([token for pair in pairs for token in pair.continuation], device=device)
    values = logits.gather(1, targets[:, None])[:, 0].float() - log_normalisers(logits)
    owners = torch.repeat_interleave(torch.arange(len(pairs)), torch.tensor(lengths)).to(device)
    return values.new_zeros(len(pairs)).index_add(0, owners, values)
