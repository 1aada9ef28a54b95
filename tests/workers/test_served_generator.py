"""vLLM as the engine of answers: the loop's answers, the recipe's weights, and nothing of an earlier candidate.

Runs where vLLM is installed: `make test-vllm` makes an environment for it.
"""

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from evomerge.errors import RunError
from evomerge.models.live_model import load_tokenizer, model_config
from evomerge.recipes.recipe import ModelRef, Recipe, Source, recipe_of_models
from evomerge.scoring.engine.encoder import Encoder
from evomerge.scoring.protocol import Answer, Request
from evomerge.scoring.vllm.serving_plan import ServingPlan
from evomerge.workers.jobs import Job, WorkerSpec
from evomerge.workers.model_config import ModelConfig
from evomerge.workers.worker import Worker
from tests.conftest import QUICKSTART

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SWITCHES = 1000


def write_family(folder: Path) -> tuple[ModelRef, tuple[ModelRef, ...]]:
    """A base and two experts of random weights, with heads of a width that vLLM's attention supports on a CPU."""
    source = QUICKSTART / "family" / "base"
    config = AutoConfig.from_pretrained(source)
    config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim = 64, 2, 1, 32
    config.intermediate_size, config.num_hidden_layers, config.max_position_embeddings = 96, 2, 128
    for number, name in enumerate(("base", "one", "two")):
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config).float()
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        model.save_pretrained(folder / name)
        for path in source.glob("*token*"):
            shutil.copy(path, folder / name)
    base, *experts = (ModelRef(str(folder / name)) for name in ("base", "one", "two"))
    return base, tuple(experts)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelRef, tuple[ModelRef, ...]]:
    return write_family(tmp_path_factory.mktemp("family"))


def requests(count: int, **options: Any) -> tuple[Request, ...]:
    draw = random.Random(3)
    texts = ["".join(draw.choices(LETTERS + " =", k=draw.randint(2, 40))) for _ in range(count)]
    return tuple(Request("generate_until", (text, {"until": ["\n"], "max_gen_toks": 24, **options})) for text in texts)


WORK = {
    "search/0": requests(200),
    "search/1": requests(3),
    "search/stops": requests(40, until=["x", "qz", "</s>"]),
    "search/sampled": tuple(replace(r, repeats=3) for r in requests(8, do_sample=True, temperature=0.9, top_k=5)),
    "search/choices": tuple(Request("loglikelihood", ("last abc = ", letter)) for letter in "abcd"),
}


@pytest.fixture(scope="module")
def workers(family: tuple[ModelRef, tuple[ModelRef, ...]]) -> Iterator[tuple[Worker, Worker]]:
    """The worker with the loop, and the one with vLLM."""
    base, experts = family
    encoder = Encoder(load_tokenizer(Path(base.path)), model_config(Path(base.path)))
    work = {chunk: encoder.encode(listed) for chunk, listed in WORK.items()}
    spec = WorkerSpec(base, experts, work, ModelConfig(dtype="float32", device="cpu"))
    plan = ServingPlan.of(model_config(Path(base.path)), 4, 10**6, [80])
    yield Worker(spec), Worker(replace(spec, serving=plan))


def merged(family: tuple[ModelRef, tuple[ModelRef, ...]], *weights: float) -> Recipe:
    base, experts = family
    sources = tuple(Source(ref, {"weight": weight}) for ref, weight in zip(experts, weights, strict=True))
    return recipe_of_models("task_arithmetic", base, sources, {}, out_dtype="float32")


def answers(worker: Worker, recipe: Recipe, chunk: str) -> list[Any]:
    outcome = worker.attempt(Job(recipe.key(), recipe, chunk))
    assert outcome.error is None and outcome.responses is not None, outcome.error
    return outcome.responses


@pytest.mark.parametrize("chunk", ["search/0", "search/stops", "search/choices"])
def test_answers_are_those_of_the_loop(family: Any, workers: tuple[Worker, Worker], chunk: str) -> None:
    loop, served = workers
    recipe = merged(family, 0.6, 0.3)
    expected, found = answers(loop, recipe, chunk), answers(served, recipe, chunk)
    if chunk != "search/choices":
        assert len({answer.text for answer in expected}) > len(expected) / 4, "answers that differ from each other"
    assert found == expected


def test_sampled_answers_are_repeated_and_differ_among_repeats(family: Any, workers: tuple[Worker, Worker]) -> None:
    served, recipe = workers[1], merged(family, 0.6, 0.3)
    first = answers(served, recipe, "search/sampled")
    answers(served, merged(family, 1.0, 0.0), "search/1")
    assert answers(served, recipe, "search/sampled") == first
    assert all(len(group) == 3 for group in first) and any(len({a.text for a in group}) > 1 for group in first)


def test_no_answer_is_of_an_earlier_candidate(family: Any, workers: tuple[Worker, Worker]) -> None:
    loop, served = workers
    recipes = [merged(family, *weights) for weights in ((0, 0), (1, 0), (0, 1), (0.5, 0.5), (-0.5, 1.2))]
    expected = [answers(loop, recipe, "search/1") for recipe in recipes]
    assert len({tuple(answer.text for answer in group) for group in expected}) == len(recipes)
    draw = random.Random(5)
    for _ in range(SWITCHES):
        place = draw.randrange(len(recipes))
        assert answers(served, recipes[place], "search/1") == expected[place]


def test_the_engine_has_the_weights_of_the_recipe(family: Any, workers: tuple[Worker, Worker]) -> None:
    loop, served = workers
    recipe = merged(family, 0.25, 0.75)
    assert served.fingerprint(recipe) == loop.fingerprint(recipe)


def test_other_weights_in_the_engine_are_an_error(family: Any, workers: tuple[Worker, Worker]) -> None:
    served, recipe = workers[1], merged(family, 0.1, 0.2)
    served.fingerprint(recipe)
    assert served._served is not None
    place = next(iter(served._served._generator.places.values()))
    before = place.tensor().clone()
    place.tensor().view(-1)[0] += 1
    with pytest.raises(RunError, match="vLLM has other weights than the recipe"):
        served.fingerprint(recipe)
    place.tensor().copy_(before)
    assert served.fingerprint(recipe)


def test_an_engine_that_reads_its_weights_in_another_layout_is_refused(
    family: Any, workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fingerprint cannot show it, so the first answers are compared with the loop's."""
    served, recipe = workers[1], merged(family, 0.6, 0.3)
    live = served._served._generator._live  # type: ignore[union-attr]
    layer = next(module for name, module in live.named_modules() if name.endswith("down_proj"))
    monkeypatch.setattr(layer, "cpu_linear", lambda x, weight, bias=None: torch.nn.functional.linear(x, weight.flip(0)))
    served._is_checked = False
    outcome = served.attempt(Job(recipe.key(), recipe, "search/0"))
    assert outcome.error is not None and "trial answers of the decoding loop" in outcome.error


def test_a_candidate_that_overflows_fails_and_the_next_is_scored(family: Any, workers: tuple[Worker, Worker]) -> None:
    loop, served = workers
    broken = merged(family, 1e18, -1e18)
    outcome = served.attempt(Job(broken.key(), broken, "search/1"))
    assert outcome.error is not None and "not finite" in outcome.error
    recipe = merged(family, 0.5, 0.5)
    assert answers(served, recipe, "search/1") == answers(loop, recipe, "search/1")
    assert isinstance(answers(served, recipe, "search/1")[0], Answer)
