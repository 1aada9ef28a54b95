"""One live model: candidates come and go in place, failures are values, a score depends on the candidate alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.merging.digests import fingerprint
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from evomerge.models.live_model import load_tokenizer, model_config
from evomerge.recipes.recipe import ModelRef, Recipe, Source, recipe_of_models
from evomerge.scoring.engine.encoder import EncodedChunk, Encoder
from evomerge.scoring.protocol import Request
from evomerge.workers.jobs import Job, WorkerSpec
from evomerge.workers.model_config import ModelConfig
from evomerge.workers.worker import Worker
from tests.conftest import QUICKSTART

BASE = ModelRef(str(QUICKSTART / "family" / "base"))
EXPERTS = tuple(ModelRef(str(QUICKSTART / "family" / name)) for name in ("shift", "last"))
REQUESTS: dict[str, tuple[Request, ...]] = {
    "search/0": tuple(Request("loglikelihood", (f"last agc = {c}"[:-1], c)) for c in "abcd"),
    "search/1": tuple(Request("loglikelihood", ("shift agc = ", word)) for word in ("bhd", "agc")),
}
ENCODER = Encoder(load_tokenizer(Path(BASE.path)), model_config(Path(BASE.path)))
BROKEN = EncodedChunk((Request("loglikelihood", ("", "")),), (), (), None, 0)
WORK = {chunk: ENCODER.encode(requests) for chunk, requests in REQUESTS.items()} | {"broken": BROKEN}


def merged(*weights: float, dtype: str = "float32") -> Recipe:
    sources = tuple(Source(ref, {"weight": w}) for ref, w in zip(EXPERTS, weights, strict=True))
    return recipe_of_models("task_arithmetic", BASE, sources, {}, out_dtype=dtype)


def job(recipe: Recipe, chunk: str = "search/0") -> Job:
    return Job(recipe.key(), recipe, chunk)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    yield Worker(WorkerSpec(BASE, EXPERTS, WORK, ModelConfig(dtype="float32", device="cpu")))


def test_an_answer_depends_on_the_candidate_and_on_nothing_before_it(worker: Worker) -> None:
    """A candidate is rebuilt from the base: visiting others in between leaves no trace, to the bit."""
    first = worker.attempt(job(merged(0.5, 0.5)))
    for weights in ((1.0, 0.0), (7.0, -3.0), (0.0, 0.0)):
        assert worker.attempt(job(merged(*weights))).responses != first.responses
    again = worker.attempt(job(merged(0.5, 0.5)))
    assert first.error is None and again.responses == first.responses
    assert first.seconds > 0


def test_a_chunk_that_it_learns_of_later_is_answered_as_one_known_from_the_start(worker: Worker) -> None:
    worker.extend({"search/later/0": REQUESTS["search/0"]})
    first, later = (worker.attempt(job(merged(0.5, 0.5), chunk)) for chunk in ("search/0", "search/later/0"))
    assert first.error is later.error is None and later.responses == first.responses


def test_weight_one_is_the_expert_and_zero_the_base(worker: Worker) -> None:
    from transformers import AutoModelForCausalLM

    for recipe, folder in ((merged(1.0, 0.0), EXPERTS[0].path), (merged(0.0, 0.0), BASE.path)):
        alone = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        worker.attempt(job(recipe))
        for (name, ours), (_, theirs) in zip(worker._model.named_parameters(), alone.named_parameters(), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6), name


def test_the_candidate_is_written_once_for_all_its_chunks(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = Materializer.write

    def counted(self: Materializer, recipe: Recipe, model: Any) -> None:
        written.append(recipe.key())
        write(self, recipe, model)

    monkeypatch.setattr(Materializer, "write", counted)
    one, two = merged(0.1, 0.9), merged(0.9, 0.1)
    for recipe, chunk in ((one, "search/0"), (one, "search/1"), (two, "search/0"), (one, "search/0")):
        assert worker.attempt(job(recipe, chunk)).error is None
    assert written == [one.key(), two.key(), one.key()]


def test_weights_that_overflow_are_a_failure_with_a_reason(worker: Worker) -> None:
    outcome = worker.attempt(job(merged(1e40, 1e40)))
    assert outcome.responses is None and outcome.error
    assert "\n" not in outcome.error
    assert worker.attempt(job(merged(0.5, 0.5))).error is None, "the worker must be usable afterwards"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory\nmany lines"), ZeroDivisionError()])
def test_any_exception_is_the_candidates_failure_and_the_next_one_is_rewritten(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    expected = worker.attempt(job(merged(0.3, 0.3))).responses
    with monkeypatch.context() as patch:

        def half(self: Materializer, recipe: Recipe, model: torch.nn.Module) -> None:
            with torch.no_grad():
                next(iter(model.parameters())).fill_(7.0)
            raise error

        patch.setattr(Materializer, "write", half)
        outcome = worker.attempt(job(merged(0.4, 0.4)))
    assert outcome.error is not None and outcome.error.startswith(type(error).__name__)
    assert "\n" not in outcome.error
    assert worker.attempt(job(merged(0.3, 0.3))).responses == expected


def test_a_chunk_that_cannot_be_asked_is_a_failure(worker: Worker) -> None:
    assert worker.attempt(job(merged(0.5, 0.5), "broken")).error
    assert worker.attempt(job(merged(0.5, 0.5), "no such chunk")).error


def test_its_fingerprint_is_that_of_the_export(worker: Worker) -> None:
    recipe = merged(0.7, 0.2)
    found = worker.fingerprint(recipe)
    stream = Materializer(Family(BASE, EXPERTS)).tensors(recipe)
    assert found == fingerprint((name, tensor) for name, tensor in stream)
    assert found == worker.fingerprint(recipe) != worker.fingerprint(merged(0.7, 0.3))


def test_bfloat16_is_the_rounded_float32_merge() -> None:
    half = Worker(WorkerSpec(BASE, EXPERTS, WORK, ModelConfig(dtype="bfloat16", device="cpu")))
    recipe = merged(0.7, 0.2, dtype="bfloat16")
    assert half.attempt(job(recipe)).error is None
    exact = dict(Materializer(Family(BASE, EXPERTS)).tensors(recipe))
    for name, parameter in half._model.named_parameters():
        assert torch.equal(parameter, exact[name].to(torch.bfloat16)), name


def test_it_reads_what_was_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is given a folder computes nothing that is in it."""
    from evomerge.methods import ties

    sources = tuple(Source(ref, {"weight": 0.5, "density": 0.3}) for ref in EXPERTS)
    recipe = recipe_of_models("ties", BASE, sources, {}, out_dtype="float32")
    list(Materializer(Family(BASE, EXPERTS), prepared=tmp_path).prepare(recipe))

    def computed(setup: object) -> None:
        raise AssertionError("prepared again")

    plain = Worker(WorkerSpec(BASE, EXPERTS, WORK, ModelConfig(dtype="float32", device="cpu")))
    wanted = plain.fingerprint(recipe)
    monkeypatch.setattr(ties, "prepare", computed)
    assert (
        Worker(
            WorkerSpec(BASE, EXPERTS, WORK, ModelConfig(dtype="float32", device="cpu"), prepared=str(tmp_path))
        ).fingerprint(recipe)
        == wanted
    )


@pytest.mark.parametrize("mode", ["device", "pinned", "mmap"])
def test_every_place_gives_the_same_fingerprint(worker: Worker, mode: str) -> None:
    placed = Worker(WorkerSpec(BASE, EXPERTS, WORK, ModelConfig(dtype="float32", device="cpu", placement=mode)))
    for weights in ((0.5, 0.5), (1.0, 0.0), (0.5, 0.5)):
        assert placed.fingerprint(merged(*weights)) == worker.fingerprint(merged(*weights))
