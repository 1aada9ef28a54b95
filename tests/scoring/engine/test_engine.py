"""The engine chooses the fast path where it is exact, goes on with less memory, and keeps kinds in order."""

import logging
from typing import Any

import pytest
import torch
from transformers import GPTNeoXConfig, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config

from evomerge.errors import TaskError
from evomerge.scoring.engine.encoder import Encoder
from evomerge.scoring.engine.windows import full_attention_length
from evomerge.scoring.protocol import Answer, Request
from tests.scoring.conftest import Answers, forwards, random_model
from tests.scoring.engine.test_loglikelihood import harness

PAIRS = [Request("loglikelihood", (f"{i}+{i}=", f" {2 * i}")) for i in range(5)]
LONG = [Request("loglikelihood", ("long " * 30, word)) for word in ("yes", "no")]


def test_kinds_may_be_mixed_and_repeated(engine: Any) -> None:
    rolling = Request("loglikelihood_rolling", ("some text",), repeats=2)
    generate = Request("generate_until", ("go on", {"until": ["\n"], "max_gen_toks": 3, "do_sample": False}))
    mixed = engine.respond([PAIRS[0], generate, rolling, PAIRS[1], generate])
    assert mixed[0] == pytest.approx(engine.respond(PAIRS[:1])[0], rel=1e-5)
    assert mixed[2][0] == mixed[2][1] == pytest.approx(engine.respond([rolling])[0][0], rel=1e-5)
    assert isinstance(mixed[1], Answer) and mixed[1] == mixed[4]


def test_a_model_that_does_not_fit_is_scored_plainly_and_says_so(tokenizer: Any, caplog: Any) -> None:
    model = random_model("mpt")
    with caplog.at_level(logging.WARNING, "evomerge"):
        ours = Answers(model, tokenizer)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("scored by lm-eval's own forward pass, not by token trees: the two differ")
    assert ours.respond(PAIRS) == Answers(model, tokenizer, path="plain").respond(PAIRS)


def test_the_path_can_be_chosen(tokenizer: Any, caplog: Any) -> None:
    model = random_model("llama")
    assert Answers(model, tokenizer, path="plain").respond(PAIRS) == harness(model, tokenizer, PAIRS, None)
    assert Answers(random_model("mpt"), tokenizer, path="tree").engine.plain_reason is None
    assert not caplog.records


def test_beyond_a_sliding_window_the_plain_path_is_taken(tokenizer: Any, caplog: Any) -> None:
    """Gemma 2 has windows of 64 tokens here: a mask of our own would look further."""
    model = random_model("gemma2")
    ours = Answers(model, tokenizer)
    plain = Answers(model, tokenizer, path="plain").respond(LONG)
    with caplog.at_level(logging.WARNING, "evomerge"):
        assert ours.respond(LONG) == ours.respond(LONG) == plain
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("tokens exceed the 64 that this model attends to at once")
    forced = Answers(model, tokenizer, path="tree").engine
    forced._full_attention_length = 10**6
    with torch.inference_mode():
        wrong = forced.respond(ours.encoder.encode(tuple(LONG)))
    assert wrong[0][0] != pytest.approx(plain[0][0], rel=1e-3)


DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 99}
LONG_ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(), float("inf")),
        (GPTNeoXConfig(), float("inf")),
        (MistralConfig(sliding_window=77), 77),
        (MistralConfig(sliding_window=None), float("inf")),
        (Qwen2Config(use_sliding_window=False), float("inf")),
        (Qwen2Config(use_sliding_window=True, sliding_window=55, max_window_layers=1), 55),
        (LlamaConfig(rope_parameters=DYNAMIC), 99),
        (Phi3Config(original_max_position_embeddings=44, rope_parameters=LONG_ROPE), 44),
    ],
)
def test_how_far_a_model_sees(config: Any, expected: float) -> None:
    assert full_attention_length(config) == expected


class Small:
    """A device that has no memory for more than so many tokens at once."""

    def __init__(self, model: Any, most: int) -> None:
        self.most = most
        model.register_forward_pre_hook(self.look, with_kwargs=True)

    def look(self, module: Any, arguments: Any, named: Any) -> None:
        if named["input_ids"].numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_without_memory_for_a_batch_scoring_goes_on_in_smaller_ones(tokenizer: Any, caplog: Any) -> None:
    requests = [Request("loglikelihood", (f"number {i} ", w)) for i in range(60) for w in ("even", "odd")]
    model = random_model("llama")
    expected = Answers(model, tokenizer).respond(requests)
    ours = Answers(model, tokenizer, path="tree")
    Small(model, 300)
    shapes = forwards(model)
    with caplog.at_level(logging.WARNING, "evomerge"):
        answers = ours.respond(requests)
    assert [value for value, _ in answers] == pytest.approx([value for value, _ in expected], rel=1e-5)
    assert [record.getMessage() for record in caplog.records][-1].startswith("out of memory: scoring continues")
    caplog.clear()
    shapes.clear()
    assert ours.respond(requests) == answers
    assert not caplog.records and max(rows * length for rows, length in shapes) <= 300


@pytest.mark.parametrize("requests", [PAIRS, [Request("loglikelihood", ("far " * 80, "too long"))]])
def test_without_memory_for_one_request_the_candidate_fails(tokenizer: Any, requests: list[Request]) -> None:
    model = random_model("llama")
    ours = Answers(model, tokenizer, path="tree")
    Small(model, 3)
    with pytest.raises(torch.OutOfMemoryError):
        ours.respond(requests)


@pytest.mark.parametrize("arguments", [("", ""), ("go", ""), ("go", " on" * 9)])
def test_a_request_that_does_not_fit_is_refused_before_weights_are_read(
    arguments: Any, model: Any, tokenizer: Any
) -> None:
    with pytest.raises(TaskError, match=r"loglikelihood of \('.* does not fit the model: a prompt of") as error:
        Encoder(tokenizer, model.config, max_length=8).encode([Request("loglikelihood", arguments)])
    assert "\n" not in str(error.value)


def test_the_tokenizer_is_left_alone(model: Any, tokenizer: Any) -> None:
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>")
    Encoder(bare, model.config).encode(PAIRS)
    assert bare.pad_token is None
