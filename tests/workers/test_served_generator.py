"""vLLM as the engine of answers: the loop's answers, the recipe's weights, and nothing of an earlier candidate.

Runs where vLLM is installed: `make test-vllm` makes an environment for it.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.errors import RunError
from evomerge.models.live_model import load_tokenizer, model_config
from evomerge.recipes.recipe import ModelRef, Recipe
from evomerge.scoring.engine.encoder import Encoder
from evomerge.scoring.protocol import Answer, Request
from evomerge.scoring.vllm.serving_plan import ServingPlan
from evomerge.workers.jobs import Job, WorkerSpec
from evomerge.workers.model_config import ModelConfig
from evomerge.workers.worker import Worker
from tests.workers.served_family import merged, requests, write_family

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")
SWITCHES = 1000


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelRef, tuple[ModelRef, ...]]:
    return write_family(tmp_path_factory.mktemp("family"))


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


@pytest.mark.parametrize("failures", [1, 2])
def test_an_engine_that_fails_leaves_no_answer_behind(
    family: Any, workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """In the middle of its answers: once, they are repeated; twice, the candidate fails and the next is scored."""
    loop, served = workers
    first, second = merged(family, 0.5, 0.5), merged(family, 1.0, 0.0)
    expected = answers(loop, first, "search/stops")
    engine = served._served._generator._engine.llm_engine  # type: ignore[union-attr]
    step, steps = engine.step, [0]

    def fail() -> Any:
        steps[0] += 1
        if steps[0] in (9, 18)[:failures]:
            raise RuntimeError("EngineCore has died")
        return step()

    answers(served, second, "search/1")
    monkeypatch.setattr(engine, "step", fail)
    outcome = served.attempt(Job(first.key(), first, "search/stops"))
    assert steps[0] >= 9 * failures
    if failures == 1:
        assert outcome.responses == expected
    else:
        assert outcome.responses is None and outcome.error == "RuntimeError: EngineCore has died"
    assert answers(served, first, "search/stops") == expected
    assert answers(served, second, "search/1") == answers(loop, second, "search/1")
