"""The first pass over prompts of different lengths without padding: prompts of one length are computed together."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from transformers import Cache, PreTrainedModel

from evomerge.scoring.engine.caches import SPARE_TOKENS, InPlaceLayer, KVStates, compute_states
from evomerge.scoring.engine.prompts import Ids

CALL_TOKENS = {"cpu": 64}  # the cost of one more forward pass in tokens of padding …
OTHER_CALL_TOKENS = 512  # … and its cost on a GPU, where a short pass is bound by launches
PASS_TOKENS = 2048  # of one forward pass: more are not faster, and take more memory


def saves_padding(lengths: Sequence[int], device: torch.device) -> bool:
    """Whether one pass for each length costs less than the padding of all rows to the longest."""
    padding = max(lengths) * len(lengths) - sum(lengths)
    return padding > len(set(lengths)) * CALL_TOKENS.get(device.type, OTHER_CALL_TOKENS)


def start_with_prompts(cache: Cache, model: PreTrainedModel, prefix: KVStates, rows: Sequence[Ids]) -> None:
    """Fill an empty cache with the prefix and all tokens of the rows but the last of each.

    The rows must be sorted by length. Padding, whose keys and values are zero, is between the prefix and a row.
    """
    heads = [row[:-1] for row in rows]
    shared = prefix[0][0].shape[2] if prefix else 0
    width = shared + max(map(len, heads))
    buffers: KVStates = []
    for start, group in _passes(heads):
        states = compute_states(model, group, prefix) if group[0] else _repeated(prefix, len(group))
        buffers = buffers or [_buffers(layer, len(rows), width) for layer in states]
        for targets, sources in zip(buffers, states, strict=False):  # no states at all for empty rows without a prefix
            for target, source in zip(targets, sources, strict=True):
                target[start : start + len(group), :, :shared] = source[:, :, :shared]
                target[start : start + len(group), :, width - len(group[0]) : width] = source[:, :, shared:]
    for layer, (keys, values) in zip(cache.layers, buffers, strict=True):
        assert isinstance(layer, InPlaceLayer)
        layer.start_in(keys, values, width)


def _passes(rows: Sequence[Ids]) -> Iterator[tuple[int, list[Ids]]]:
    """Groups of rows of one length with the place of their first row, each of at most PASS_TOKENS or one row."""
    start = 0
    for length, members in groupby(rows, key=len):
        group = list(members)
        size = max(1, PASS_TOKENS // max(1, length))
        for offset in range(0, len(group), size):
            part = group[offset : offset + size]
            yield start, part
            start += len(part)


def _repeated(prefix: KVStates, rows: int) -> KVStates:
    return [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in prefix]


def _buffers(states: tuple[torch.Tensor, torch.Tensor], rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    keys, values = (part.new_zeros(rows, part.shape[1], width + SPARE_TOKENS, part.shape[3]) for part in states)
    return keys, values
