"""A growing layer holds what transformers' own layer holds, after any appending, choosing and beginning."""

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from evomerge.scoring.engine.caches import (
    SPARE_TOKENS,
    InPlaceLayer,
    cache_argument,
    compute_prefix,
    new_kv_cache,
    start_with_prefix,
    supports_shared_prefixes,
)
from tests.scoring.shapes import made

torch.manual_seed(0)
STEPS = [torch.randn(2, 8, 3, tokens, 4) for tokens in (5, 1, 1, SPARE_TOKENS, 1, 2)]
CHOICES = [[0, 1, 2, 3], [0, 3, 2], [2, 1, 0], [0, 1], [1]]


@pytest.mark.parametrize("start", [[0, 1, 2, 3, 4, 5], [5, 5, 4, 0, 1, 1, 1, 2]], ids=["all", "repeated"])
def test_it_holds_what_transformers_layer_holds(start: list[int]) -> None:
    ours, theirs = InPlaceLayer(), DynamicLayer()
    rows = torch.arange(6)
    for step, (new, choice) in enumerate(zip(STEPS, [start, *CHOICES], strict=True)):
        keys, values = new[:, : len(rows)]
        assert all(map(torch.equal, ours.update(keys, values), theirs.update(keys, values))), step
        rows = torch.tensor(choice)
        for layer in (ours, theirs):
            layer.batch_select_indices(rows)
        assert ours.keys.equal(theirs.keys) and ours.values.equal(theirs.values)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_appending_a_token_copies_nothing_else() -> None:
    layer = InPlaceLayer()
    first, _ = layer.update(*STEPS[0])
    second, _ = layer.update(*STEPS[1])
    assert first.data_ptr() == second.data_ptr()
    layer.batch_select_indices(torch.tensor([0, 5, 2]))
    third, _ = layer.update(*STEPS[1][:, :3])
    assert third.data_ptr() == first.data_ptr()


def test_a_beginning_is_never_written_to() -> None:
    model = made("llama")
    with torch.no_grad():
        states = compute_prefix(model, [5, 6, 7])
        before = [keys.clone() for keys, _ in states]
        for _ in range(2):
            cache = new_kv_cache(model)
            start_with_prefix(cache, states, rows=3)
            assert cache.get_seq_length() == 3
            whole = model(torch.tensor([[5, 6, 7, 8]])).logits[:, -1]
            behind = model(torch.full((3, 1), 8), **{cache_argument(model.forward): cache}).logits[:, -1]
            assert torch.allclose(behind, whole.expand(3, -1), atol=1e-5)
    assert all(keys.equal(old) for (keys, _), old in zip(states, before, strict=True))


def test_prefixes_are_shared_only_where_every_layer_sees_every_token() -> None:
    assert {
        shape: supports_shared_prefixes(new_kv_cache(made(shape))) for shape in ("llama", "gpt2", "mistral", "t5")
    } == {
        "llama": True,
        "gpt2": True,
        "mistral": False,
        "t5": False,
    }


def test_a_cache_is_called_what_the_function_calls_it() -> None:
    """transformers renamed it: custom code may keep the old name under a release that has the new one."""
    assert cache_argument(lambda input_ids, cache=None: None) == "cache"
    assert cache_argument(lambda input_ids, past_key_values=None: None) == "past_key_values"
    assert cache_argument(made("llama").forward) in ("cache", "past_key_values")
