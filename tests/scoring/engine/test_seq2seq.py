"""Encoder-decoder log-likelihoods are lm-eval's; a context is encoded once."""

import copy
import functools
import logging
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
    PLBartConfig,
    PLBartForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
)

from evomerge.errors import CandidateError
from evomerge.scoring.engine.seq2seq import Seq2SeqScorer
from evomerge.scoring.engine.tree import Pair
from tests.scoring.conftest import Answers, char_tokenizer
from tests.scoring.shapes import VOCABULARY, made

TOKENIZER = char_tokenizer(bos=False, eos=True)


def pairs(count: int = 10) -> list[Pair]:
    """One-token choices, choices of several lengths, contexts of three lengths."""
    contexts = [TOKENIZER(f"what is {i}+{i * 7}{'?' * (i % 3)}").input_ids for i in range(count)]
    answers = [TOKENIZER(text, add_special_tokens=False).input_ids for text in ("a", "b", "an answer", "an end", "9")]
    return [Pair(tuple(context), tuple(answer)) for context in contexts for answer in answers]


def made_of(model: type[PreTrainedModel], config: type[PretrainedConfig], **ids: int | None) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 128}
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    plain: Any = config
    return model(plain(vocab_size=VOCABULARY, init_std=0.3, eos_token_id=2, **sizes, **layers, **ids)).eval()


def bart() -> PreTrainedModel:
    ids = {"bos_token_id": 1, "pad_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None}
    return made_of(BartForConditionalGeneration, BartConfig, **ids)


def mbart() -> PreTrainedModel:
    """Its decoder begins with the last token of the answer."""
    return made_of(MBartForConditionalGeneration, MBartConfig, bos_token_id=0, pad_token_id=1)


def plbart() -> PreTrainedModel:
    """As mBART."""
    return made_of(PLBartForConditionalGeneration, PLBartConfig, bos_token_id=0, pad_token_id=1)


def prophetnet() -> PreTrainedModel:
    """Its forward pass gives other numbers where labels are padded."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 128}
    layers = {f"num_{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
    full_attention_length = {"num_buckets": 8, "relative_max_distance": 64}
    config = ProphetNetConfig(vocab_size=VOCABULARY, init_std=0.3, **sizes, **layers, **ids, **full_attention_length)
    return ProphetNetForConditionalGeneration(config).eval()


@torch.no_grad()
def one_by_one(model: PreTrainedModel, pair: Pair) -> tuple[float, bool]:
    """What transformers says of one pair alone, from its labels."""
    labels = torch.tensor([pair.continuation])
    logits = model(input_ids=torch.tensor([pair.context]), labels=labels).logits
    value = logits.log_softmax(-1).gather(2, labels.unsqueeze(2)).sum()
    return float(value), bool((logits.argmax(-1) == labels).all())


def by_lm_eval(model: PreTrainedModel, wanted: list[Pair], **options: Any) -> list[tuple[float, bool]]:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tokenizer = copy.deepcopy(TOKENIZER)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="seq2seq", softmax_dtype="float32", **options)
    return lm._loglikelihood_tokens(
        [(None, list(pair.context), list(pair.continuation)) for pair in wanted], disable_tqdm=True
    )


def values(scores: list[tuple[float, bool]]) -> list[float]:
    return [value for value, _ in scores]


@pytest.mark.parametrize("max_length", [256, 12])
@pytest.mark.parametrize("model", [made("t5"), bart()], ids=["t5", "bart"])
def test_numbers_are_those_of_lm_eval(model, max_length) -> None:
    ours = Seq2SeqScorer(model, max_length=max_length).score(pairs())
    theirs = by_lm_eval(model, pairs(), batch_size=7, max_length=max_length)
    assert values(ours) == pytest.approx(values(theirs), rel=1e-5, abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


@pytest.mark.parametrize("path", ["auto", "plain"])
@pytest.mark.parametrize("shape", [mbart, plbart, prophetnet])
def test_an_answer_is_worth_what_it_is_alone(shape, path, caplog) -> None:
    """Answers of several lengths, some of which differ in their last token alone, in one batch."""
    model = shape()
    ours = Answers(model, TOKENIZER, path=path)
    assert bool(ours.engine.plain_reason) == (path == "plain" or shape is prophetnet)
    found = ours.engine.log_likelihoods(ours.encoder.encode_pairs(pairs()))
    expected = [one_by_one(model, pair) for pair in pairs()]
    assert values(found) == pytest.approx(values(expected), rel=1e-5, abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_a_row_that_answers_wrongly_share_is_found_before_anything_is_scored(monkeypatch) -> None:
    def one_start(scorer: Seq2SeqScorer, targets: set[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, ...]]:
        return {target: (2, *target[:-1]) for target in targets}

    monkeypatch.setattr(Seq2SeqScorer, "_shifted", one_start)
    assert Answers(bart(), TOKENIZER).engine.plain_reason is None
    assert "the two differ" in str(Answers(mbart(), TOKENIZER).engine.plain_reason)


def test_a_model_that_takes_no_labels_is_left_to_the_plain_path(monkeypatch) -> None:
    model = bart()
    monkeypatch.setattr(model, "forward", lambda input_ids, attention_mask, labels: 1 / 0)
    assert Answers(model, TOKENIZER).engine.plain_reason == "ZeroDivisionError: division by zero"


def test_the_likeliest_continuation_is_greedy() -> None:
    model, context = made("t5"), TOKENIZER("go on").input_ids
    greedy = model.generate(torch.tensor([context]), max_new_tokens=4, eos_token_id=None)[0, 1:].tolist()
    other = [*greedy[:-1], (greedy[-1] + 1) % VOCABULARY]
    asked = [Pair(tuple(context), tuple(said)) for said in (greedy, other)]
    (_, yes), (_, no) = Seq2SeqScorer(model, max_length=64).score(asked)
    assert yes and not no


def test_a_context_is_encoded_once_and_what_answers_share_is_decoded_once() -> None:
    model = made("t5")
    encoded, decoded, scored = [], [], []
    model.encoder.embed_tokens.register_forward_hook(lambda m, ids, out: encoded.append(tuple(ids[0].shape)))
    model.decoder.final_layer_norm.register_forward_hook(lambda m, ids, out: decoded.append(tuple(out.shape[:2])))
    model.lm_head.register_forward_hook(lambda m, states, out: scored.append(out.shape[1]))
    Seq2SeqScorer(model, max_length=256).score(pairs())
    assert encoded == [(10, max(len(pair.context) for pair in pairs())), *encoded[1:]]
    assert decoded == [(30, 9)]  # "a", "b" and "9" follow the same tokens: none
    assert scored == [10 * (1 + len("an answer") + len("an end"))]


def test_numbers_do_not_depend_on_the_batch_but_for_rounding() -> None:
    model = made("t5")
    whole = Seq2SeqScorer(model, max_length=256).score(pairs())
    assert whole == Seq2SeqScorer(model, max_length=256).score(pairs())
    small = Seq2SeqScorer(model, max_length=256, max_tokens=90).score(pairs())
    assert values(small) == pytest.approx(values(whole), rel=1e-5, abs=1e-4)
    assert Seq2SeqScorer(model, max_length=256).score([]) == []


def test_a_half_precision_model_gets_a_full_precision_softmax() -> None:
    model = made("t5").to(torch.bfloat16)
    scores = torch.tensor(values(Seq2SeqScorer(model, max_length=256).score(pairs())))
    assert not torch.equal(scores, scores.to(torch.bfloat16).float())
    assert values(by_lm_eval(model, pairs(), batch_size=50)) == pytest.approx(scores.tolist(), abs=0.15)


def test_weights_that_are_no_numbers_fail_the_candidate() -> None:
    model = made("t5")
    with torch.no_grad():
        model.decoder.final_layer_norm.weight[3] = float("nan")
    with pytest.raises(CandidateError, match="the log-likelihood is nan: the merged weights"):
        Seq2SeqScorer(model, max_length=64).score(pairs(2))


def test_without_memory_for_a_batch_smaller_ones_go_on(monkeypatch, caplog) -> None:
    model = made("t5")
    expected = values(Seq2SeqScorer(model, max_length=256).score(pairs()))
    whole = model.forward

    @functools.wraps(whole)
    def small(**inputs: Any) -> Any:
        if len(inputs["decoder_input_ids"]) > 10:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return whole(**inputs)

    monkeypatch.setattr(model, "forward", small)
    assert values(Seq2SeqScorer(model, max_length=256).score(pairs())) == pytest.approx(expected, rel=1e-5, abs=1e-4)
    assert len(caplog.records) == 2 and "out of memory with 30 items" in caplog.text
