"""The engine answers in order, from the weights of the moment, and refuses numbers that are not finite."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from evomerge.errors import CandidateError, TaskError
from evomerge.scorers import Request
from evomerge.scorers.encode import check_tokenizer
from evomerge.scorers.harness import HarnessEngine


@pytest.fixture
def engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> HarnessEngine:
    return HarnessEngine(model, tokenizer)


GREEDY = {"until": ["\n"], "max_gen_toks": 3, "do_sample": False}
PAIRS = [Request("loglikelihood", (f"{i}+{i}=", f" {2 * i}")) for i in range(5)]


def test_kinds_may_be_mixed(engine) -> None:
    rolling = Request("loglikelihood_rolling", ("some text",))
    generate = Request("generate_until", ("go on", GREEDY))
    mixed = engine.respond([PAIRS[0], generate, rolling, PAIRS[1], generate])
    assert mixed[0] == engine.respond(PAIRS[:1])[0]
    assert mixed[3] == pytest.approx(engine.respond(PAIRS[1:2])[0], rel=1e-5)
    assert isinstance(mixed[2], float) and isinstance(mixed[1], str) and mixed[1] == mixed[4]


def test_log_likelihoods_are_those_of_the_model(engine, model, tokenizer) -> None:
    ids = torch.tensor([tokenizer("1+1= 2").input_ids])
    with torch.no_grad():
        logs = model(ids).logits.log_softmax(-1)
    expected = sum(logs[0, i - 1, ids[0, i]].item() for i in (-2, -1) for i in [ids.shape[1] + i])
    assert engine.respond(PAIRS[1:2])[0][0] == pytest.approx(expected, rel=1e-5)


def test_a_half_precision_model_gets_a_full_precision_softmax(model, tokenizer) -> None:
    answers = HarnessEngine(model.to(torch.bfloat16), tokenizer).respond(PAIRS)
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


def test_nan_weights_fail_a_generation(engine, model) -> None:
    engine.respond([Request("generate_until", ("go", GREEDY))])
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(CandidateError, match="logits are not finite"):
        engine.respond([Request("generate_until", ("go", GREEDY))])
    assert not model.lm_head._forward_hooks


def test_repeats_come_back_as_lists_and_leave_torch_alone(engine) -> None:
    sampled = {"until": ["\n"], "max_gen_toks": 4, "do_sample": True, "temperature": 1.5}
    torch.manual_seed(3), np.random.seed(3)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(3), np.random.seed(3)
    (many,) = engine.respond([Request("generate_until", ("go", sampled), repeats=4)])
    assert len(many) == 4 and len(set(many)) > 1
    assert (torch.rand(1), np.random.rand()) == expected


def test_what_does_not_fit_the_model_is_a_task_error(model, tokenizer) -> None:
    engine = HarnessEngine(model, tokenizer, max_length=8)
    with pytest.raises(TaskError, match=r"generate_until requests do not fit the model: .*max"):
        engine.respond([Request("generate_until", ("go", {**GREEDY, "max_gen_toks": 99}))])
    with pytest.raises(TaskError, match="loglikelihood requests do not fit the model: a prompt"):
        engine.respond([Request("loglikelihood", ("go", " on" * 9))])


def test_the_engine_is_silent_and_copies_the_tokenizer(model, tokenizer, capfd: Any) -> None:
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    engine = HarnessEngine(model, tokenizer, batch_size=2)
    engine.respond([*PAIRS, Request("loglikelihood_rolling", ("some text",)), Request("generate_until", ("a", GREEDY))])
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
    answers = HarnessEngine(model, tokenizer).respond([*PAIRS, Request("generate_until", ("go", GREEDY))])
    source = torch.tensor([tokenizer("1+1=").input_ids])
    target = torch.tensor([tokenizer(" 2", add_special_tokens=False).input_ids])
    loss = model(input_ids=source, labels=target).loss.item()
    assert answers[1][0] == pytest.approx(-2 * loss, rel=1e-4)
    assert isinstance(answers[-1], str)


def test_an_encoder_input_must_be_closed(chars) -> None:
    check_tokenizer(chars(bos=True), is_encoder_decoder=False)
    check_tokenizer(chars(bos=False, eos=True), is_encoder_decoder=True)
    with pytest.raises(TaskError, match="does not end its input with </s>; add it to its post-processor"):
        check_tokenizer(chars(bos=False), is_encoder_decoder=True)
