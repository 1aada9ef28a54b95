"""Generated answers are those of lm-eval's Hugging Face class, whatever is computed once and whoever leaves a batch."""

import copy
import functools
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from evomerge.errors import CandidateError, TaskError
from evomerge.scoring.engine.generation import Generator
from evomerge.scoring.protocol import Answer, Request
from tests.scoring.conftest import char_tokenizer
from tests.scoring.shapes import SHAPES, VOCABULARY, llama, made

SMOLLM2 = Path(os.environ.get("SMOLLM2_MODEL", "smollm2-135m-instruct"))
PROMPTS = [f"what is {i} and {i * i}" * (1 + i % 3) for i in range(9)]


def ask(*contexts: str, repeats: int = 1, **options: Any) -> list[Request]:
    arguments = {"until": ["e", "\n"], "max_gen_toks": 20, "do_sample": False, **options}
    return [Request("generate_until", (context, arguments), repeats) for context in contexts]


def tokenizer_of(shape: str) -> Any:
    return char_tokenizer(bos=shape != "t5", eos=shape == "t5")


def by_lm_eval(model: PreTrainedModel, tokenizer: Any, requests: list[Request], **options: Any) -> list[str]:
    """lm-eval's own answers, each alone in its batch."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    backend = "seq2seq" if model.config.is_encoder_decoder else "causal"
    lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), backend=backend, batch_size=1, **options)
    return lm.generate_until([Instance("generate_until", {}, r.arguments, 0) for r in requests], disable_tqdm=True)


def texts(answers: list[Any]) -> list[str]:
    return [answer.text for answer in answers]


@pytest.fixture
def generator(model, tokenizer) -> Generator:
    return Generator(model, tokenizer)


@pytest.mark.parametrize("until", [["e", "\n"], "o", [], ["th", " i"], ["never said"]], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_answers_are_those_of_lm_eval(shape, until) -> None:
    model, tokenizer, requests = made(shape), tokenizer_of(shape), ask(*PROMPTS, until=until)
    ours = Generator(model, tokenizer).answer(requests)
    assert texts(ours) == by_lm_eval(model, tokenizer, requests)
    assert len(set(texts(ours))) > 5


@pytest.mark.sampled(1)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_stop_of_several_tokens_is_found_wherever_it_begins(shape) -> None:
    model, tokenizer = made(shape), tokenizer_of(shape)
    whole = texts(Generator(model, tokenizer).answer(ask(*PROMPTS, until=[])))
    for start in (0, 3, 7):
        requests = [r for p, text in zip(PROMPTS, whole, strict=True) for r in ask(p, until=[text[start : start + 3]])]
        ours = Generator(model, tokenizer).answer(requests)
        assert texts(ours) == by_lm_eval(model, tokenizer, requests)
        assert all(len(answer.text) <= start and not answer.truncated for answer in ours)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("shape", SHAPES)
def test_answers_do_not_depend_on_the_batch(shape) -> None:
    model, tokenizer, requests = made(shape), tokenizer_of(shape), ask(*PROMPTS)
    together = Generator(model, tokenizer).answer(requests)
    assert together == [Generator(model, tokenizer).answer([request])[0] for request in requests]
    assert together == Generator(model, tokenizer, max_tokens=150).answer(requests)
    assert together == Generator(model, tokenizer).answer(requests[::-1])[::-1]


@pytest.mark.parametrize("max_gen_toks", [1, 40, 63])
@pytest.mark.parametrize("shape", ["llama", "gpt2", "t5"])
def test_contexts_too_long_lose_their_beginning(shape, max_gen_toks) -> None:
    model, tokenizer = made(shape), tokenizer_of(shape)
    requests = ask(*(prompt * 4 for prompt in PROMPTS[:4]), until=[], max_gen_toks=max_gen_toks)
    ours = Generator(model, tokenizer, max_length=64).answer(requests)
    assert texts(ours) == by_lm_eval(model, tokenizer, requests, max_length=64)


def test_every_request_has_one_bos_whatever_stands_beside_it(model, tokenizer) -> None:
    requests = ask("<s>[user]hi[assistant]", "[user]hi[assistant]", "<s>", "")
    with_bos, without, alone, empty = Generator(model, tokenizer).answer(requests)
    assert with_bos == without and alone == empty
    assert [with_bos.text, without.text, alone.text] == by_lm_eval(model, tokenizer, requests[:3])


def test_an_empty_context_becomes_the_prefix_token(model, chars) -> None:
    bare, usual = Generator(model, chars(bos=False)), Generator(model, chars())
    assert bare.answer(ask("")) == usual.answer(ask(""))


def test_truncated_is_what_reached_its_limit_before_a_stop(model, tokenizer) -> None:
    (whole,) = Generator(model, tokenizer).answer(ask("go", until=[]))
    assert whole.truncated and len(whole.text) == 20
    last = whole.text[-1]
    assert last not in whole.text[:-1]
    stopped, missed = Generator(model, tokenizer).answer(
        ask("go", until=[last]) + ask("go", until=[last], max_gen_toks=19)
    )
    assert stopped == Answer(whole.text[:-1], truncated=False)
    assert missed == Answer(whole.text[:-1], truncated=True)


def test_an_end_token_ends_an_answer_without_truncation(model, tokenizer) -> None:
    with torch.no_grad():
        model.lm_head.weight[2] = 0.0
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY).index_fill_(0, torch.tensor(2), 1e4))
    assert Generator(model, tokenizer).answer(ask("go", until=[])) == [Answer("", truncated=False)]


def tried(model: PreTrainedModel, tokenizer: Any) -> Generator:
    """A generator that has already compared its loop with `generate`."""
    generator = Generator(model, tokenizer)
    assert generator.loop_refusal is None
    return generator


def counted(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Rows and tokens of every forward pass of the decoder, as they happen."""
    seen: list[tuple[int, int]] = []
    model.get_decoder().get_input_embeddings().register_forward_hook(
        lambda module, ids, out: seen.append(tuple(ids[0].shape))
    )
    return seen


@pytest.mark.parametrize("shape", ["llama", "gpt2", "mistral"])
def test_what_contexts_share_is_computed_once(shape) -> None:
    """By layers that see every token; a sliding window counts its tokens, so padding may not stand among them."""
    model, tokenizer = made(shape), tokenizer_of(shape)
    shared = "a long list of examples that comes before every question: " * 4
    requests = ask(*(shared + prompt for prompt in PROMPTS))
    generator = tried(model, tokenizer)
    seen = counted(model)
    ours = generator.answer(requests)
    longest = max(len(prompt) for prompt in PROMPTS)
    if shape != "mistral":
        assert seen[0][0] == 1 and seen[0][1] >= len(shared)
        assert seen[1][0] == len(PROMPTS) and seen[1][1] <= longest
    else:
        assert seen[0][0] == len(PROMPTS) and seen[0][1] >= len(shared) + longest
    assert texts(ours) == by_lm_eval(model, tokenizer, requests)


def test_equal_contexts_are_computed_once(model, tokenizer) -> None:
    generator = tried(model, tokenizer)
    seen = counted(model)
    greedy = generator.answer(ask(*PROMPTS, *PROMPTS, repeats=3))
    assert greedy[:9] == greedy[9:] and all(len(set(answers)) == 1 and len(answers) == 3 for answers in greedy)
    assert {rows for rows, _ in seen} <= set(range(1, 10))


def test_answers_that_stop_leave_the_batch(model, tokenizer) -> None:
    generator = tried(model, tokenizer)
    seen = counted(model)
    requests = ask(*PROMPTS, until=["e", "o", "a"])
    generator.answer(requests)
    together = [rows for rows, _ in seen]
    for request in requests:
        generator.answer([request])
    assert sum(together) == len(seen) - len(together)
    assert len(set(together)) > 1 and together == sorted(together, reverse=True)


SAMPLED = {"do_sample": True, "temperature": 0.9, "until": []}


def test_a_sampled_answer_depends_on_its_context_and_number_alone(generator, model, tokenizer) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    many = generator.answer(ask(*PROMPTS, repeats=4, **SAMPLED))
    assert torch.rand(1) == expected
    assert len({text for answers in many for text in answers}) == 4 * len(PROMPTS)
    assert generator.answer(ask(PROMPTS[3], repeats=2, **SAMPLED)) == [many[3][:2]]
    assert Generator(model, tokenizer, max_tokens=100).answer(ask(*PROMPTS, repeats=4, **SAMPLED)) == many


def test_sampling_follows_the_distribution(generator, model, tokenizer) -> None:
    options = {**SAMPLED, "temperature": 2.0, "top_k": 5, "max_gen_toks": 1}
    (answers,) = generator.answer(ask("go", repeats=3000, **options))
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer("go").input_ids])).logits[0, -1]
    likely, tokens = (logits / 2.0).topk(5)
    counts = Counter(answer.text for answer in answers)
    for probability, token in zip(likely.softmax(-1).tolist(), tokens.tolist(), strict=True):
        assert counts[tokenizer.decode([token])] / 3000 == pytest.approx(probability, abs=0.035)


def test_the_likeliest_of_one_is_the_greedy_answer(generator) -> None:
    assert generator.answer(ask(*PROMPTS, **SAMPLED, top_k=1)) == generator.answer(ask(*PROMPTS, until=[]))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"no_repeat_ngram_size": 2}, {"max_length": 60}], ids=str)
@pytest.mark.parametrize("shape", ["llama", "t5"])
def test_what_the_loop_does_not_obey_is_left_to_transformers(shape, options) -> None:
    model, tokenizer, requests = made(shape), tokenizer_of(shape), ask(*PROMPTS[:4], **options)
    ours = Generator(model, tokenizer).answer(requests)
    assert texts(ours) == by_lm_eval(model, tokenizer, requests)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_models_own_generation_config_counts(shape) -> None:
    model, tokenizer = made(shape), tokenizer_of(shape)
    requests = ask(*PROMPTS, until=["e", "o"])
    plain = texts(Generator(model, tokenizer).answer(requests))
    model.generation_config.repetition_penalty = 1.7
    seen = counted(model)
    ours = texts(Generator(model, tokenizer).answer(requests))
    assert max(rows for rows, _ in seen) == len(PROMPTS)
    assert ours == by_lm_eval(model, tokenizer, requests) and ours != plain


def test_positions_that_depend_on_the_longest_row_are_left_to_transformers(tokenizer) -> None:
    torch.manual_seed(0)
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = llama(max_position_embeddings=32, rope_parameters=rope).eval()
    seen = counted(model)
    ours = Generator(model, tokenizer, max_length=128).answer(ask(PROMPTS[1]))
    assert texts(ours) == by_lm_eval(model, tokenizer, ask(PROMPTS[1]), max_length=128)
    Generator(model, tokenizer, max_length=128).answer(ask(*PROMPTS))
    assert {rows for rows, _ in seen} == {1}


@pytest.mark.parametrize("wrong", [ValueError("custom code knows no such argument"), None], ids=["fails", "differs"])
def test_a_model_that_the_loop_does_not_suit_is_left_to_transformers(model, tokenizer, caplog, wrong) -> None:
    expected = by_lm_eval(model, tokenizer, ask(*PROMPTS))
    whole = model.prepare_inputs_for_generation

    @functools.wraps(whole)
    def other(input_ids: torch.Tensor, **inputs: Any) -> Any:
        if len(input_ids) > 1 and wrong:
            raise wrong
        return whole(input_ids if len(input_ids) == 1 else torch.zeros_like(input_ids), **inputs)

    model.prepare_inputs_for_generation = other
    assert texts(Generator(model, tokenizer).answer(ask(*PROMPTS))) == expected
    (record,) = caplog.records
    reason = str(wrong) if wrong else "the two differ on a trial prompt"
    assert record.message.startswith("answers are generated one by one") and reason in record.message


@pytest.mark.parametrize("options", [{}, SAMPLED, {"num_beams": 2}], ids=str)
def test_weights_that_are_no_numbers_fail_the_candidate(generator, model, options) -> None:
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(CandidateError, match="logits are not finite"):
        generator.answer(ask(*PROMPTS, **options))


def test_new_weights_are_seen_at_once(generator, model) -> None:
    before = generator.answer(ask(*PROMPTS))
    assert before == generator.answer(ask(*PROMPTS))
    with torch.no_grad():
        model.lm_head.weight.mul_(-1.0)
    assert generator.answer(ask(*PROMPTS)) != before


def test_without_memory_for_a_batch_smaller_ones_go_on(model, tokenizer, monkeypatch, caplog) -> None:
    expected = Generator(model, tokenizer).answer(ask(*PROMPTS))
    whole = model.forward

    @functools.wraps(whole)
    def small(input_ids: Any = None, **inputs: Any) -> Any:
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(input_ids=input_ids, **inputs)

    monkeypatch.setattr(model, "forward", small)
    generator = Generator(model, tokenizer)
    assert generator.answer(ask(*PROMPTS)) == expected
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "out of memory with 9 items in a batch",
        "out of memory with 4 items in a batch",
    ]
    assert generator.answer(ask(*PROMPTS)) == expected and len(caplog.records) == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_gen_toks": 600}, "max_gen_toks=600 leaves no room for a prompt in the model's 512 tokens"),
        ({"max_gen_toks": 0}, "an answer has at least one token"),
        ({"do_sample": True}, "needs a temperature above 0"),
    ],
)
def test_requests_that_cannot_be_meant_are_one_line(generator, options, reason) -> None:
    with pytest.raises(TaskError, match=reason) as error:
        generator.answer(ask("go", **options))
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="set SMOLLM2_MODEL to a folder with SmolLM2-135M-Instruct")
def test_a_real_model_answers_as_in_lm_eval() -> None:
    model = AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2)

    def chat(question: str) -> str:
        turns = [{"role": "system", "content": "You are patient. " * 12}, {"role": "user", "content": question}]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    questions = ["Name three colours.", "¿Cuál es la capital de España?", "2+2?", "Write 你好 three times.", "Why?"]
    requests = ask(*map(chat, questions), until=["\n\n", "ó", "。", " of the"], max_gen_toks=24)
    requests += ask("The capital of France is", "Once upon a time", "", until=["\n", ", "], max_gen_toks=24)
    ours = texts(Generator(model, tokenizer).answer(requests))
    assert ours[:-1] == by_lm_eval(model, tokenizer, requests[:-1])
    assert len(set(ours)) == len(ours)
