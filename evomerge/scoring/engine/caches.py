"""Key/value caches for decoding: they grow in place, lose rows in place, and begin with a prefix computed once."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

ROOM = 64  # tokens that a new buffer has room for beyond those it is made for


States = list[tuple[Tensor, Tensor]]  # keys and values of every layer


class _Buffer:
    """Keys or values [rows, heads, tokens, width] with room to grow."""

    def __init__(self, held: Tensor) -> None:
        self._whole: Tensor | None = None
        self.held = held

    def append(self, new: Tensor) -> Tensor:
        length, total = self.held.shape[-2], self.held.shape[-2] + new.shape[-2]
        rows, heads, _, width = new.shape
        if self._whole is None or self._whole.shape[-2] < total:
            self._whole = new.new_empty(rows, heads, total + ROOM, width)
            self._whole[:, :, :length] = self.held
        self._whole[:, :, length:total] = new
        self.held = self._whole[:, :, :total]
        return self.held

    def select(self, rows: Tensor) -> Tensor:
        count = len(rows)
        if self._whole is None or count > len(self._whole):
            self._whole, self.held = None, self.held[rows]
            return self.held
        moved = (rows != torch.arange(count, device=rows.device)).nonzero().squeeze(1)
        self.held[moved] = self.held[rows[moved]]  # the right side is a copy
        self._whole, self.held = self._whole[:count], self.held[:count]
        return self.held


class GrowingLayer(DynamicLayer):
    """A layer of full attention that appends in place and moves only the rows that fill gaps.

    transformers' own copies the whole cache for every token: a third of a decoding step at 32 rows of 300 tokens.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Hold nothing yet."""
        self.begin_with(key_states[:, :, :0], value_states[:, :, :0])

    def begin_with(self, keys: Tensor, values: Tensor) -> None:
        """Hold these; they are copied when something is appended."""
        self.dtype, self.device = keys.dtype, keys.device
        self._buffers = _Buffer(keys), _Buffer(values)
        self.keys, self.values = keys, values
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append; the answer is everything held."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._buffers
        self.keys, self.values = keys.append(key_states), values.append(value_states)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Row i becomes what row `indices[i]` was."""
        if self.get_seq_length() > 0:
            keys, values = self._buffers
            self.keys, self.values = keys.select(indices), values.select(indices)


def cache_keyword(call: Callable[..., Any]) -> str:
    """What a function of a model calls its cache: `cache` from transformers 5.24 on, `past_key_values` before."""
    return "cache" if "cache" in inspect.signature(call).parameters else "past_key_values"


def new_cache(model: PreTrainedModel) -> Cache | None:
    """An empty cache whose rows can be chosen from, or None for a model that keeps other states."""
    layers = _layers(model)
    if layers is None or not model.config.is_encoder_decoder:
        return None if layers is None else _holding(layers)
    return EncoderDecoderCache(_holding(layers), _holding(_layers(model) or []))


def _layers(model: PreTrainedModel) -> list[DynamicLayer] | None:
    generating: Any = model
    if not generating._supports_default_dynamic_cache():
        return None
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    chosen = [layer for layer in layers if isinstance(layer, DynamicLayer)]
    if len(chosen) < len(layers):
        return None
    return [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in chosen]


def _holding(layers: Sequence[DynamicLayer]) -> DynamicCache:
    cache = DynamicCache()
    cache.layers, cache.layer_class_to_replicate = list(layers), None
    return cache


def shares_prefixes(cache: Cache) -> bool:
    """Whether padding may stand between a prefix and what follows: only where every layer sees every token."""
    return isinstance(cache, DynamicCache) and all(type(layer) is GrowingLayer for layer in cache.layers)


def prefix_states(model: PreTrainedModel, prefix: Sequence[int]) -> States:
    """Keys and values [1, heads, tokens, width] of every layer; the output head is not run."""
    cache = DynamicCache()
    inner: Any = model.base_model
    held = {cache_keyword(inner.forward): cache}
    inner(input_ids=torch.tensor([prefix], device=model.device), use_cache=True, **held)
    layers: list[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


def begin(cache: Cache, states: States, rows: int) -> None:
    """Let every row of an empty cache begin with the same states."""
    for layer, (keys, values) in zip(cache.layers, states, strict=True):
        assert isinstance(layer, GrowingLayer)
        layer.begin_with(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1))
