"""What a scored batch costs beside the model: normalisers in slices, and a prefix that is not kept for each row."""

import copy
import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from evomerge.scoring.engine import loglikelihood
from evomerge.scoring.engine.batches import plan
from evomerge.scoring.engine.caches import cache_argument, compute_prefix
from evomerge.scoring.engine.head import BLOCK, log_normalisers
from evomerge.scoring.engine.loglikelihood import TreeEngine, target_log_probabilities
from evomerge.scoring.engine.prefix_cache import PrefixLayer, prefix_cache
from evomerge.scoring.engine.tree import Costs, Pair
from tests.scoring.shapes import VOCABULARY, made

LARGE = 128_256  # tokens of a Llama 3


class Largest(TorchDispatchMode):
    """The largest number of elements of an fp32 result of any operation."""

    elements = 0

    def __torch_dispatch__(self, call: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        found = call(*arguments, **(named or {}))
        if isinstance(found, Tensor) and found.dtype == torch.float32:
            self.elements = max(self.elements, found.numel())
        return found


def test_normalisers_of_a_large_vocabulary_exist_in_slices() -> None:
    states = BLOCK + 3
    logits = torch.randn(states, LARGE, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.arange(states) * 7
    with Largest() as whole:
        plain = logits.float().log_softmax(-1)[torch.arange(states), targets]
    with Largest() as sliced:
        values, hits = target_log_probabilities(logits, torch.arange(states), targets)
    assert whole.elements == states * LARGE and sliced.elements == BLOCK * LARGE
    wanted = torch.stack([row.double().log_softmax(-1)[target] for row, target in zip(logits, targets, strict=True)])
    assert (values - wanted).abs().max() < 1e-5 and (plain - wanted).abs().max() < 1e-3
    assert torch.equal(hits, (logits.argmax(-1) == targets).float())


@pytest.mark.parametrize("count", [0, 1, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_slice_does_not_change_a_bit(count: int, dtype: torch.dtype) -> None:
    logits = torch.randn(count, 50, generator=torch.Generator().manual_seed(count)).to(dtype)
    assert torch.equal(log_normalisers(logits), logits.float().logsumexp(-1))


def test_the_derivative_is_the_softmax() -> None:
    logits = torch.randn(BLOCK + 2, 9, requires_grad=True)
    log_normalisers(logits).sum().backward()
    assert logits.grad is not None and torch.allclose(logits.grad, logits.detach().softmax(-1), atol=1e-6)


def test_a_layer_joins_as_transformers_does_and_keeps_the_prefix_alone() -> None:
    torch.manual_seed(0)
    keys, values = torch.randn(2, 1, 3, 5, 4), torch.randn(2, 6, 3, 2, 4)
    ours, theirs = PrefixLayer(*keys), DynamicLayer()
    theirs.update(*(side.expand(6, -1, -1, -1) for side in keys))
    assert all(map(torch.equal, ours.update(*values), theirs.update(*values)))
    assert ours.keys is not None and torch.equal(ours.keys, keys[0])
    assert ours.get_seq_length() == 5 and ours.keys.shape[0] == 1


@torch.no_grad()
def test_a_pass_has_the_bits_of_transformers_own_cache_and_leaves_nothing() -> None:
    model = made("llama")
    states = compute_prefix(model, range(3, 20))
    before, tokens = copy.deepcopy(states), torch.randint(3, VOCABULARY, (4, 6))
    ours, theirs = (
        prefix_cache(states),
        DynamicCache([(k.expand(4, -1, -1, -1), v.expand(4, -1, -1, -1)) for k, v in states]),
    )
    name = cache_argument(model.forward)
    found = [model(tokens, use_cache=True, **{name: cache}).logits for cache in (ours, theirs)]
    assert torch.equal(*found)
    layers: list[Any] = ours.layers
    assert all(torch.equal(layer.keys, keys) for layer, (keys, _) in zip(layers, before, strict=True))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The elements of the caches of all rows that are left when a pass has ended."""
    found: list[int] = []
    original = TreeEngine._run

    def run(self: TreeEngine, batch: Any, used: Any) -> Any:
        made: list[Any] = []
        past = self._past

        def noted(batch: Any) -> Any:
            made.append(past(batch))
            return made[-1]

        self._past = noted  # type: ignore[method-assign]
        try:
            return original(self, batch, used)
        finally:
            self._past = past  # type: ignore[method-assign]
            if made[0] is not None and not batch.keep:
                found.append(sum(layer.keys.numel() for layer in made[0].layers))

    monkeypatch.setattr(loglikelihood.TreeEngine, "_run", run)
    yield found
    gc.collect()


@torch.inference_mode()
def test_behind_a_prefix_a_batch_holds_it_once(held: list[int]) -> None:
    draw = torch.Generator().manual_seed(0)
    start = tuple(torch.randint(3, VOCABULARY, (300,), generator=draw).tolist())
    pairs = [
        Pair(start + tuple(torch.randint(3, VOCABULARY, (20,), generator=draw).tolist()), (5, 6)) for _ in range(24)
    ]
    model = made("llama")
    batches = plan(pairs, 512, Costs(6 * model.config.hidden_size, max_tokens=256, max_states=256))
    assert any(len(batch.tokens) > 1 and len(batch.prefix) >= 300 for batch in batches.batches)
    TreeEngine(model).score(batches)
    heads, width, layers = 2, 8, 2
    assert held and max(held) <= layers * heads * width * 301
