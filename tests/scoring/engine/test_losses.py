"""Item losses and their derivatives: those of lm-eval's own log-likelihoods, and those of autograd on plain rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.scoring import ItemLoss, Request
from evomerge.scoring.engine import losses as module
from evomerge.scoring.engine.encoder import EncodedLoss, Encoder
from evomerge.scoring.engine.losses import LossEngine
from tests.scoring.conftest import Answers, char_tokenizer, random_model
from tests.scoring.engine.test_seq2seq import bart

SHOTS = "".join(f"{i}+{i}={2 * i}\n" for i in range(6, 20))


def request(context: str, continuation: str) -> Request:
    return Request("loglikelihood", (context, continuation))


def choices(context: str, texts: Sequence[str], gold: int, lengths: bool = False) -> ItemLoss:
    requests = tuple(request(context, text) for text in texts)
    return ItemLoss(requests, gold, tuple(float(len(text)) for text in texts) if lengths else None)


ITEMS = [
    choices("2 is ", ["even", "odd"], 0),
    choices("the next letter: ", ["abc", "abd", "b", "a longer one"], 2, lengths=True),
    ItemLoss((request("the word ends", " here"),)),
    ItemLoss((Request("loglikelihood_rolling", ("some text",)),)),
    choices(f"{SHOTS}7+7=", ["14", "15"], 0),
    choices(f"{SHOTS}9+9=", ["81", "18"], 1),
]
WEIGHTS = [1.0, 0.5, 2.0, 1.5, 0.7, 1.0]


def engine(model: Any, *, trees: bool = True, tokens: int = 4096, seq2seq: bool = False) -> tuple[LossEngine, Encoder]:
    tokenizer = char_tokenizer(bos=False, eos=True) if seq2seq else char_tokenizer()
    encoder = Encoder(tokenizer, model.config)
    return LossEngine(model, encoder, trees=trees, batch_tokens=tokens), encoder


def encoded(encoder: Encoder, items: Sequence[ItemLoss] = ITEMS) -> list[EncodedLoss]:
    return [encoder.encode_loss(item) for item in items]


def by_hand(item: ItemLoss, answers: Sequence[Any], tokens: int) -> float:
    """The loss from raw log-likelihoods, in numpy."""
    values = np.array([answer[0] if isinstance(answer, tuple) else answer for answer in answers])
    if item.gold is None:
        return float(-values.sum() / tokens)
    values = values / np.array(item.lengths or 1.0)
    return float(np.log(np.exp(values - values[item.gold]).sum()))


def differentiate(model: Any, losses: LossEngine, items: Sequence[EncodedLoss]) -> dict[str, Tensor]:
    model.requires_grad_()
    model.zero_grad()
    losses.backward(items, WEIGHTS[: len(items)])
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3"])
@pytest.mark.parametrize("trees", [True, False])
def test_losses_follow_from_the_scores_of_the_same_requests(family: str, trees: bool) -> None:
    model = random_model(family)
    losses, encoder = engine(model, trees=trees)
    items = encoded(encoder)
    answers = Answers(model, char_tokenizer())
    wanted = [
        by_hand(item, answers.respond(item.requests), sum(len(pair.continuation) for pair in both.pairs))
        for item, both in zip(ITEMS, items, strict=True)
    ]
    assert losses.losses(items) == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    model.requires_grad_()
    assert losses.backward(items, WEIGHTS) == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert float((gradient - wanted[name]).abs().max()) <= 1e-3 * float(wanted[name].abs().max()) + 1e-6, name


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_gradients_through_trees_are_those_of_plain_rows(family: str) -> None:
    """Shared contexts, cached few-shot beginnings and packed rows are all in the graph."""
    model = random_model(family)
    trees, encoder = engine(model)
    rows, _ = engine(model, trees=False)
    assert_equal(*(differentiate(model, one, encoded(encoder)) for one in (trees, rows)))


@pytest.mark.parametrize("family", ["llama", "mpt"])
def test_gradients_of_plain_rows_are_those_of_one_row_at_a_time(family: str) -> None:
    """The oracle: no padding, no restricted head, no shared batch."""
    model = random_model(family).double()
    rows, encoder = engine(model, trees=False)
    items = encoded(encoder)
    found = differentiate(model, rows, items)
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for item, weight in zip(items, WEIGHTS, strict=True):
        values = []
        for pair in item.pairs:
            tokens = torch.tensor([pair.context + pair.continuation])
            logits = model(tokens[:, :-1]).logits[0].log_softmax(-1)[-len(pair.continuation) :]
            values.append(logits.gather(1, torch.tensor(pair.continuation)[:, None]).sum())
        total = total + weight * module._loss(item, torch.stack(values))
    total.backward()
    assert_equal(found, {name: p.grad for name, p in model.named_parameters() if p.grad is not None})


def test_encoder_decoder_models() -> None:
    model = bart()
    losses, encoder = engine(model, seq2seq=True)
    items = encoded(encoder, [item for item in ITEMS if item.requests[0].kind == "loglikelihood"])
    answers = Answers(model, char_tokenizer(bos=False, eos=True))
    wanted = [
        by_hand(both.loss, answers.respond(both.loss.requests), sum(len(pair.continuation) for pair in both.pairs))
        for both in items
    ]
    assert losses.losses(items) == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    assert differentiate(model, losses, items)


def test_batches_of_any_size_give_the_same_sums() -> None:
    model = random_model("llama").double()
    whole, encoder = engine(model)
    parts, _ = engine(model, tokens=60)
    first, second = (differentiate(model, one, encoded(encoder)) for one in (whole, parts))
    assert_equal(first, second)


def test_gradients_are_the_same_bits_each_time() -> None:
    model = random_model("llama")
    losses, encoder = engine(model)
    first, second = (differentiate(model, losses, encoded(encoder)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_memory_that_runs_out_shrinks_batches_then_recomputes_activations(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = random_model("llama").double()
    losses, encoder = engine(model)
    items = encoded(encoder)
    wanted = differentiate(model, losses, items)
    real, sizes = LossEngine._losses, []

    def limited(self: LossEngine, batch: Sequence[EncodedLoss]) -> Tensor:
        sizes.append(len(batch))
        if len(batch) > 2 or (len(batch) == 1 and not self._checkpointing):
            raise torch.OutOfMemoryError("out of memory")
        return real(self, batch)

    monkeypatch.setattr(LossEngine, "_losses", limited)
    found = differentiate(model, losses, items)
    assert sizes[0] == len(items) and losses._checkpointing
    assert "computed again" in caplog.text
    assert_equal(found, wanted)
    assert not any(layer.training for layer in model.modules())
