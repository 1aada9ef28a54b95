"""The plain path answers in order, from the weights of the moment, and refuses numbers that are not finite."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from evomerge.errors import CandidateError, TaskError
from evomerge.scoring.engine.encoder import check_tokenizer
from evomerge.scoring.protocol import Request
from tests.scoring.conftest import Answers


@pytest.fixture
def engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Answers:
    return Answers(model, tokenizer, path="plain")


PAIRS = [Request("loglikelihood", (f"{i}+{i}=", f" {2 * i}")) for i in range(5)]


def test_log_likelihoods_are_those_of_the_model(engine, model, tokenizer) -> None:
    ids = torch.tensor([tokenizer("1+1= 2").input_ids])
    with torch.no_grad():
        logs = model(ids).logits.log_softmax(-1)
    expected = sum(logs[0, i - 1, ids[0, i]].item() for i in (-2, -1) for i in [ids.shape[1] + i])
    assert engine.respond(PAIRS[1:2])[0][0] == pytest.approx(expected, rel=1e-5)


def test_a_half_precision_model_gets_a_full_precision_softmax(model, tokenizer) -> None:
    answers = Answers(model.to(torch.bfloat16), tokenizer, path="plain").respond(PAIRS)
    values = torch.tensor([value for value, _ in answers])
    assert not torch.equal(values, values.to(torch.bfloat16).float())


def test_new_weights_are_seen_at_once(engine, model) -> None:
    before = engine.respond(PAIRS)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
    assert engine.respond(PAIRS) != before


@pytest.mark.parametrize("requests", [PAIRS, [Request("loglikelihood_rolling", ("text",))]])
def test_nan_weights_fail_the_candidate(engine, model, requests) -> None:
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(CandidateError, match="log-likelihood is nan: the merged weights") as error:
        engine.respond(requests)
    assert "\n" not in str(error.value)


def test_the_engine_is_silent_and_copies_the_tokenizer(model, tokenizer, capfd: Any) -> None:
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    engine = Answers(model, tokenizer, path="plain", batch_size=2)
    engine.respond([*PAIRS, Request("loglikelihood_rolling", ("some text",))])
    assert capfd.readouterr() == ("", "")
    assert tokenizer.pad_token is None


def test_encoder_decoder_models_are_scored(chars) -> None:
    tokenizer = chars(bos=False, eos=True)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2,
        decoder_start_token_id=1, pad_token_id=2, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config).eval()
    answers = Answers(model, tokenizer, path="plain").respond(PAIRS)
    source = torch.tensor([tokenizer("1+1=").input_ids])
    target = torch.tensor([tokenizer(" 2", add_special_tokens=False).input_ids])
    loss = model(input_ids=source, labels=target).loss.item()
    assert answers[1][0] == pytest.approx(-2 * loss, rel=1e-4)


def test_an_encoder_input_must_be_closed(chars) -> None:
    check_tokenizer(chars(bos=True), is_encoder_decoder=False)
    check_tokenizer(chars(bos=False, eos=True), is_encoder_decoder=True)
    with pytest.raises(TaskError, match="does not end its input with </s>; add it to its post-processor"):
        check_tokenizer(chars(bos=False), is_encoder_decoder=True)
