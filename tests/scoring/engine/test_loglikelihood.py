"""The tree engine's numbers are those of lm-eval's Hugging Face class, item by item, for every shape of request."""

from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from evomerge.errors import CandidateError
from evomerge.scoring.protocol import Request
from tests.scoring.conftest import Answers, forwards, random_model

SHOTS = "".join(f"{i}+{i}={2 * i}\n" for i in range(6, 30))
SHAPES: dict[str, list[Request]] = {
    "two choices": [Request("loglikelihood", (f"{i} is ", w)) for i in range(6) for w in ("even", "odd")],
    "ten one-token choices": [Request("loglikelihood", (f"{i}+1=", str(c))) for i in range(3) for c in range(10)],
    "choices that begin alike": [
        Request("loglikelihood", (f"n{i}", w)) for i in range(4) for w in ("a", "ab", "abc", "abd", "b")
    ],
    "cloze": [Request("loglikelihood", (f"the word {'x' * i} ends", " here")) for i in range(12)],
    "empty contexts": [Request("loglikelihood", ("", w)) for w in ("yes", "no", "yes, and no")],
    "trailing spaces": [Request("loglikelihood", (f"{i} =  ", w)) for i in range(3) for w in ("one", " two")],
    "unknown and other scripts": [
        Request("loglikelihood", (f"Größe {i}:", w)) for i in range(3) for w in ("ß", "大き")
    ],
    "few-shot": [Request("loglikelihood", (f"{SHOTS}{i}+{i}=", str(w))) for i in range(20) for w in (2 * i, 7)],
    "two tasks, two prefixes": [
        Request("loglikelihood", (f"{SHOTS[k:]}{i}:", w)) for k in (0, 9) for i in range(12) for w in ("up", "down")
    ],
    "mutual information": [
        Request("loglikelihood", (context, w)) for i in range(4) for context in (f"q{i}", "") for w in ("up", "down")
    ],
    "equal requests": [Request("loglikelihood", ("again", "!"))] * 3,
    "rolling": [Request("loglikelihood_rolling", ("some text " * n,)) for n in (1, 3, 40)],
}


def harness(model: Any, tokenizer: Any, requests: list[Request], max_length: int | None) -> list[Any]:
    """lm-eval's answers, one by one for rolling requests: two windows of a batch with equal tokens, split differently,
    get wrong numbers there (its gather takes the first positions of the longer one, lm-eval 0.4.13)."""
    lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=7, max_length=max_length)
    kind = requests[0].kind
    instances = [Instance(kind, {}, request.arguments, 0) for request in requests]
    batches = [[instance] for instance in instances] if "rolling" in kind else [instances]
    return [answer for batch in batches for answer in getattr(lm, kind)(batch, disable_tqdm=True)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3", "mpt"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_request_gets_the_harness_numbers(family: str, shape: str, tokenizer: Any) -> None:
    model, requests = random_model(family), SHAPES[shape]
    ours = Answers(model, tokenizer)
    assert (ours.engine.plain_reason is None) == (family != "mpt")
    compare(ours.respond(requests), harness(model, tokenizer, requests, None))


def compare(ours: list[Any], theirs: list[Any]) -> None:
    if isinstance(ours[0], float):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-4)
        return
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], rel=1e-6, abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


@pytest.mark.parametrize("max_length", [8, 30])
@pytest.mark.parametrize("shape", ["few-shot", "rolling", "cloze"])
def test_what_the_model_cannot_hold_is_cut_on_the_left(max_length: int, shape: str, tokenizer: Any) -> None:
    model = random_model("llama")
    ours = Answers(model, tokenizer, max_length=max_length).respond(SHAPES[shape])
    compare(ours, harness(model, tokenizer, SHAPES[shape], max_length))


@pytest.mark.parametrize("batch_tokens", [1, 40, 300])
def test_batches_of_any_size_agree(batch_tokens: int, tokenizer: Any) -> None:
    model = random_model("llama")
    for requests in SHAPES.values():
        compare(
            Answers(model, tokenizer, batch_tokens=batch_tokens).respond(requests),
            Answers(model, tokenizer).respond(requests),
        )


def test_a_score_is_the_same_to_the_bit_whatever_was_scored_before(tokenizer: Any) -> None:
    """Cached beginnings outlive a chunk; a fresh worker must get the same numbers without them."""
    model = random_model("llama")
    used = Answers(model, tokenizer, path="tree")
    first = used.respond(SHAPES["few-shot"])
    used.respond(SHAPES["two tasks, two prefixes"])
    assert used.respond(SHAPES["few-shot"]) == first == Answers(model, tokenizer).respond(SHAPES["few-shot"])


def test_cached_beginnings_are_not_computed_again_until_weights_change(tokenizer: Any) -> None:
    model = random_model("llama")
    ours = Answers(model, tokenizer)
    requests = [Request("loglikelihood", (f"{SHOTS}{i} is ", w)) for i in range(60) for w in ("even", "odd")]
    shapes, counts = forwards(model), []
    for _ in range(2):
        before = ours.respond(requests)
        counts.append(sum(rows * length for rows, length in shapes))
        shapes.clear()
    assert counts[0] - counts[1] == len(SHOTS) + 1  # and <s>
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
        model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    ours.engine.forget()
    assert ours.respond(requests) != before
    assert ours.respond(requests) == Answers(model, tokenizer).respond(requests)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees_within_its_rounding(dtype: torch.dtype, tokenizer: Any) -> None:
    model = random_model("llama", dtype=dtype).to(dtype)
    ours = Answers(model, tokenizer, path="tree").respond(SHAPES["few-shot"])
    plain = Answers(model, tokenizer, path="plain").respond(SHAPES["few-shot"])
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in plain], rel=0.03)
    values = torch.tensor([value for value, _ in ours])
    assert not torch.equal(values, values.to(dtype).float())  # a softmax in full precision


def test_what_is_held_at_once_does_not_grow_with_the_slice(tokenizer: Any) -> None:
    """A forward pass stays within its budget of tokens, and the head within its budget of logits."""
    model, most, logits = random_model("llama"), [], []
    model.lm_head.register_forward_hook(lambda module, states, out: logits.append(out.numel()))
    shapes = forwards(model)
    for count in (20, 80, 320):
        requests = [
            Request("loglikelihood", (f"{i} {'x' * (i % 9)}", w)) for i in range(count) for w in ("even", "odd")
        ]
        shapes.clear()
        logits.clear()
        Answers(model, tokenizer, batch_tokens=256, path="tree").respond(requests)
        most.append((max(rows * length for rows, length in shapes) <= 256, max(logits) <= 256 * len(tokenizer)))
    assert most == [(True, True)] * 3 and len(shapes) > 10


def test_nan_weights_fail_the_candidate(tokenizer: Any) -> None:
    model = random_model("llama")
    ours = Answers(model, tokenizer)
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(CandidateError, match="log-likelihood is nan: the merged weights"):
        ours.respond(SHAPES["cloze"])


def test_the_hook_on_the_head_goes_with_the_call(tokenizer: Any) -> None:
    model = random_model("llama")
    Answers(model, tokenizer).respond(SHAPES["cloze"])
    assert not model.lm_head._forward_pre_hooks
    assert model(torch.ones(2, 5, dtype=torch.long)).logits.shape[:2] == (2, 5)
