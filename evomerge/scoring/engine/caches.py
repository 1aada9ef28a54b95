"""KV caches for decoding, which append in place, remove rows in place and may start with a shared prefix."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

SPARE_TOKENS = 64  # capacity of a new buffer beyond the tokens that it is created for


KVStates = list[tuple[Tensor, Tensor]]  # keys and values of every layer, each [rows, heads, tokens, width]


@dataclass(frozen=True)
class RowSelection:
    """Row i becomes the former row `indices[i]`; of these, the rows `moved` change, to the former rows `sources`.

    The tensors are made once from a list, so that no layer has to wait for the device.
    """

    indices: Tensor
    moved: Tensor
    sources: Tensor

    @classmethod
    def of(cls, rows: Sequence[int], device: torch.device) -> "RowSelection":
        """The selection of these rows, for tensors on a device."""
        moved = [place for place, row in enumerate(rows) if place != row]
        tensors = torch.tensor([*rows, *moved, *(rows[place] for place in moved)], device=device)
        return cls(*tensors.split([len(rows), len(moved), len(moved)]))


class _Buffer:
    """Keys or values [rows, heads, tokens, width]; `filled` is the used part of a larger buffer."""

    def __init__(self, filled: Tensor, buffer: Tensor | None = None) -> None:
        self.filled, self._buffer = filled, buffer

    def append(self, new: Tensor) -> Tensor:
        length, total = self.filled.shape[-2], self.filled.shape[-2] + new.shape[-2]
        rows, heads, _, width = new.shape
        if self._buffer is None or self._buffer.shape[-2] < total:
            self._buffer = new.new_empty(rows, heads, total + SPARE_TOKENS, width)
            self._buffer[:, :, :length] = self.filled
        self._buffer[:, :, length:total] = new
        self.filled = self._buffer[:, :, :total]
        return self.filled

    def select(self, rows: RowSelection) -> Tensor:
        count = len(rows.indices)
        if self._buffer is None or count > len(self._buffer):
            self._buffer, self.filled = None, self.filled[rows.indices]
            return self.filled
        if len(rows.moved):
            self.filled[rows.moved] = self.filled[rows.sources]  # the right side is a copy
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

    def start_in(self, keys: Tensor, values: Tensor, length: int) -> None:
        """Start with the first `length` tokens of these buffers; the next tokens are written behind them."""
        filled_keys, filled_values = keys[:, :, :length], values[:, :, :length]
        self.start_with(filled_keys, filled_values)
        self._buffers = _Buffer(filled_keys, keys), _Buffer(filled_values, values)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, and return all that the layer has."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._buffers
        self.keys, self.values = keys.append(key_states), values.append(value_states)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Replace row i by the former row `indices[i]`."""
        self.select(RowSelection.of(indices.tolist(), indices.device))

    def select(self, rows: RowSelection) -> None:
        """Select rows without a synchronisation of the device."""
        if self.get_seq_length() > 0:
            keys, values = self._buffers
            self.keys, self.values = keys.select(rows), values.select(rows)


def select_rows(cache: Cache, rows: RowSelection) -> None:
    """Select rows in every layer of a cache."""
    if isinstance(cache, EncoderDecoderCache):
        select_rows(cache.self_attention_cache, rows)
        select_rows(cache.cross_attention_cache, rows)
        return
    layers: list[Any] = cache.layers
    for layer in layers:
        if isinstance(layer, InPlaceLayer):
            layer.select(rows)
        else:
            layer.batch_select_indices(rows.indices)


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
    return compute_states(model, [prefix], [])


def compute_states(model: PreTrainedModel, rows: Sequence[Sequence[int]], prefix: KVStates) -> KVStates:
    """Keys and values [rows, heads, tokens, width] of every layer for rows of one length, which follow the prefix."""
    cache = DynamicCache()
    if prefix:
        cache = _cache_of([InPlaceLayer() for _ in prefix])
        start_with_prefix(cache, prefix, len(rows))
    forget_offsets(model)
    inner: Any = model.base_model
    held = {cache_argument(inner.forward): cache}
    inner(input_ids=torch.tensor(rows, device=model.device), use_cache=True, **held)
    layers: list[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


def forget_offsets(model: PreTrainedModel) -> None:
    """Discard the offsets of positions that a model with several axes has stored for the rows of its last call."""
    modules: list[Any] = list(model.modules())
    for module in modules:
        if getattr(module, "rope_deltas", None) is not None:
            module.rope_deltas = None


def start_with_prefix(cache: Cache, states: KVStates, rows: int) -> None:
    """Start every row of an empty cache with the same states."""
    for layer, (keys, values) in zip(cache.layers, states, strict=True):
        assert isinstance(layer, InPlaceLayer)
        layer.start_with(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1))
