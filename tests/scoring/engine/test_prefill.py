"""Prompts of different lengths, computed apart from each other, fill the cache that a padded pass fills."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evomerge.scoring.engine.caches import compute_prefix, new_kv_cache
from evomerge.scoring.engine.decoding import DecodingLoop
from evomerge.scoring.engine.generation import Generator
from evomerge.scoring.engine.prefill import PASS_TOKENS, saves_padding, start_with_prompts
from tests.architectures.configurations import ARCHITECTURES
from tests.scoring.engine.test_generation import PROMPTS, ask, by_lm_eval, counted, texts, tokenizer_of, tried
from tests.scoring.shapes import made

ROWS = [tuple(range(5, 5 + length)) for length in (9, 7, 7, 4, 1, 1)]
SYNCHRONISING = ("nonzero", "_local_scalar_dense", "is_nonzero", "masked_select", "unique", "equal.default")


@pytest.mark.parametrize("prefix", [(), (3, 4, 3)], ids=["alone", "after a prefix"])
@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_each_row_has_its_own_states_and_zeros_before_them(shape: str, prefix: tuple[int, ...]) -> None:
    model = made(shape)
    cache: Any = new_kv_cache(model)
    with torch.no_grad():
        start_with_prompts(cache, model, compute_prefix(model, prefix) if prefix else [], ROWS)
        for number, row in enumerate(ROWS):
            length = len(row) - 1
            whole: Any = model(torch.tensor([[*prefix, *row]]), use_cache=True).past_key_values
            for ours, theirs in zip(cache.layers, whole.layers, strict=True):
                for mine, own in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
                    first, gap = len(prefix), 8 - length
                    assert torch.allclose(mine[number, :, :first], own[0, :, :first], atol=1e-5)
                    assert not mine[number, :, first : first + gap].any()
                    assert torch.allclose(mine[number, :, first + gap :], own[0, :, first:-1], atol=1e-5)


def test_a_pass_is_not_larger_than_its_limit() -> None:
    model = made("llama")
    rows = [tuple([5] * 200)] * 25 + [(6, 7)]
    with torch.no_grad():
        seen = counted(model)
        start_with_prompts(new_kv_cache(model), model, [], rows)
    assert [rows * tokens <= PASS_TOKENS for rows, tokens in seen] == [True] * 4
    assert sum(rows * tokens for rows, tokens in seen) == 25 * 199 + 1


@pytest.mark.parametrize("shape", ["llama", "gpt2", "mistral"])
def test_many_lengths_are_computed_without_padding(shape: str) -> None:
    model, tokenizer = made(shape), tokenizer_of(shape)
    short, long = ["ab" * (1 + i % 2) for i in range(60)], PROMPTS[2] * 2
    requests = ask(*(f"{i}{text}" for i, text in enumerate(short)), long)
    generator = tried(model, tokenizer)
    seen = counted(model)
    ours = generator.answer(requests)
    first = [rows * tokens for rows, tokens in seen if tokens > 1]
    assert (sum(first) < 60 * 8) == (shape != "mistral")
    assert texts(ours) == by_lm_eval(model, tokenizer, requests)


def test_padding_is_weighed_against_passes() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert saves_padding([300] + [20] * 30, cpu) and saves_padding([300] + [20] * 30, gpu)
    assert not saves_padding([30, 29, 28], cpu) and not saves_padding([50] + [20] * 10, gpu)
    assert not saves_padding([20] * 30, cpu)


class Operations(TorchDispatchMode):
    """The names of the operations that make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(function) for name in SYNCHRONISING):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The waiting operations of the steps after the first token."""
    mode, step = Operations(), DecodingLoop._remove_finished

    def remove_finished(self: DecodingLoop, ends: frozenset[int]) -> list[int]:
        if len(self._unfinished[0].tokens) == 1:
            mode.__enter__()
        return step(self, ends)

    monkeypatch.setattr(DecodingLoop, "_remove_finished", remove_finished)
    yield mode.found
    mode.__exit__(None, None, None)


def test_a_step_waits_for_the_device_once(operations: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the one `tolist` of the tokens, and in the check of transformers whether its mask has padding."""
    model, tokenizer = made("llama"), tokenizer_of("llama")
    generator = Generator(model, tokenizer)
    monkeypatch.setitem(generator.__dict__, "loop_refusal", None)
    answers = generator.answer(ask(*PROMPTS, until=["e", "o", "a"]))
    assert len({len(answer.text) for answer in answers}) > 2  # type: ignore[union-attr]
    assert set(operations) <= {"aten.is_nonzero.default"} and len(operations) < 20


@pytest.mark.parametrize("name", ["qwen2_vl", "cohere_compass"])
def test_positions_of_several_axes_follow_their_rows(name: str) -> None:
    """Rows leave, prompts share a prefix, and each batch has another number of rows than the one before."""
    torch.manual_seed(0)
    architecture = ARCHITECTURES[name]
    model: Any = architecture.auto_class.from_config(architecture.config()).eval()
    tokenizer = tokenizer_of("llama")
    requests = ask(*PROMPTS, *("of this long list of examples " * 3 + prompt for prompt in PROMPTS), max_gen_toks=6)
    generator = tried(model, tokenizer)
    ours = generator.answer(requests) + generator.answer(requests[3:])
    assert texts(ours) == by_lm_eval(model, tokenizer, requests + requests[3:])
    assert len(set(texts(ours))) > 9


def test_positions_that_count_padding_are_left_to_transformers() -> None:
    """MPT's biases depend on the distance in the cache, where padding may be between a shared prefix and a row."""
    torch.manual_seed(0)
    architecture = ARCHITECTURES["mpt"]
    model: Any = architecture.auto_class.from_config(architecture.config()).eval()
    assert Generator(model, tokenizer_of("llama")).loop_refusal == "the two differ on a trial prompt"
