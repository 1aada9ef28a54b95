"""KV caches for decoding, which append in place, remove rows in place and may start with a shared prefix."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

SPARE_TOKENS = 64  # capacity of a new buffer beyond the tokens that it is created for


KVStates = list[tuple[Tensor, Tensor]]  # keys and values of every layer, each [rows, heads, tokens, width]


class _Buffer:
    """Keys or values [rows, heads, tokens, width]; `filled` is the used part of a larger buffer."""

    def __init__(self, filled: Tensor) -> None:
        self._buffer: Tensor | None = None
        self.filled = filled

    def append(self, new: Tensor) -> Tensor:
        length, total = self.filled.shape[-2], self.filled.shape[-2] + new.shape[-2]
        rows, heads, _, width = new.shape
        if self._buffer is None or self._buffer.shape[-2] < total:
            self._buffer = new.new_empty(rows, heads, total + SPARE_TOKENS, width)
            self._buffer[:, :, :length] = self.filled
        self._buffer[:, :, length:total] = new
        self.filled = self._buffer[:, :, :total]
        return self.filled

    def select(self, rows: Tensor) -> Tensor:
        count = len(rows)
        if self._buffer is None or count > len(self._buffer):
            self._buffer, self.filled = None, self.filled[rows]
            return self.filled
        moved = (rows != torch.arange(count, device=rows.device)).nonzero().squeeze(1)
        self.filled[moved] = self.filled[rows[moved]]  # the right side is a copy
        self._buffer, self.filled = self._buffer[:count], self.filled[:count]
        return self.filled


class InPlaceLayer(DynamicLayer):
    """The cache of a full-attention layer, which appends in place and moves only the rows that fill gaps.

    The layer of transformers copies the whole cache for every token, which takes a third of a decoding step at 32 rows
    of 300 tokens.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Start empty, with the shapes and the dtype of these states."""
        self.start_with(key_states[:, :, :0], value_states[:, :, :0])

    def start_with(self, keys: Tensor, values: Tensor) -> None:
        """Start with these states; they are copied at the first append."""
        self.dtype, self.device = keys.dtype, keys.device
        self._buffers = _Buffer(keys), _Buffer(values)
        self.keys, self.values = keys, values
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, and return all that the layer has."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._buffers
        self.keys, self.values = keys.append(key_states), values.append(value_states)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Replace row i by the former row `indices[i]`."""
        if self.get_seq_length() > 0:
            keys, values = self._buffers
            self.keys, self.values = keys.select(indices), values.select(indices)


def cache_argument(call: Callable[..., Any]) -> str:
    """The name of a model function's cache argument: `cache` from transformers 5.24 on, `past_key_values` before."""
    return "cache" if "cache" in inspect.signature(call).parameters else "past_key_values"


def new_kv_cache(model: PreTrainedModel) -> Cache | None:
    """An empty cache with row selection, or None for a model that has other states than keys and values."""
    layers = _cache_layers(model)
    if layers is None or not model.config.is_encoder_decoder:
        return None if layers is None else _cache_of(layers)
    return EncoderDecoderCache(_cache_of(layers), _cache_of(_cache_layers(model) or []))


def _cache_layers(model: PreTrainedModel) -> list[DynamicLayer] | None:
    generating: Any = model
    if not generating._supports_default_dynamic_cache():
        return None
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    chosen = [layer for layer in layers if isinstance(layer, DynamicLayer)]
    if len(chosen) < len(layers):
        return None
    return [InPlaceLayer() if type(layer) is DynamicLayer else layer for layer in chosen]


def _cache_of(layers: Sequence[DynamicLayer]) -> DynamicCache:
    cache = DynamicCache()
    cache.layers, cache.layer_class_to_replicate = list(layers), None
    return cache


def supports_shared_prefixes(cache: Cache) -> bool:
    """Whether rows may have padding between a shared prefix and their own tokens: every layer needs full attention."""
    return isinstance(cache, DynamicCache) and all(type(layer) is InPlaceLayer for layer in cache.layers)


def compute_prefix(model: PreTrainedModel, prefix: Sequence[int]) -> KVStates:
    """Keys and values [1, heads, tokens, width] of every layer for one token sequence, without the output head."""
    cache = DynamicCache()
    inner: Any = model.base_model
    held = {cache_argument(inner.forward): cache}
    inner(input_ids=torch.tensor([prefix], device=model.device), use_cache=True, **held)
    layers: list[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


def start_with_prefix(cache: Cache, states: KVStates, rows: int) -> None:
    """Start every row of an empty cache with the same states."""
    for layer, (keys, values) in zip(cache.layers, states, strict=True):
        assert isinstance(layer, InPlaceLayer)
        layer.start_with(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1))
