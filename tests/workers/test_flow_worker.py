"""A search over orders of layers in one live model: layers stay resident, and what is scored is what is shipped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evomerge.export.folder import export_recipe
from evomerge.merging.digests import fingerprint
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from evomerge.models.live_model import load_model, load_tokenizer, model_config
from evomerge.recipes.recipe import ModelRef, Recipe
from evomerge.scoring.engine.encoder import Encoder
from evomerge.scoring.engine.scoring_engine import ScoringEngine
from evomerge.scoring.protocol import Request
from evomerge.space.flow import FlowSpace
from evomerge.space.flow_config import FlowConfig
from evomerge.space.flow_visits import visits_of
from evomerge.workers.jobs import WorkerSpec
from evomerge.workers.model_config import ModelConfig
from evomerge.workers.worker import Worker
from tests.families import save_adapter, save_family
from tests.workers.test_worker import BASE, ENCODER, EXPERTS, job, merged

GENERATION = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}
REQUESTS = {
    "trees": tuple(Request("loglikelihood", (f"last agc = {c}"[:-1], c)) for c in "abcdefghij"),
    "answers": tuple(Request("generate_until", (f"shift {word} =", GENERATION)) for word in ("agc", "bhd", "a")),
}
WORK = {chunk: ENCODER.encode(requests) for chunk, requests in REQUESTS.items()}
MODELS = {"base": BASE, "shift": EXPERTS[0], "last": EXPERTS[1]}
FLOW = FlowConfig(repeats=2, scale=[0.5, 1.5], max_layers=7, pinned=0)
SPACE = FlowSpace(FLOW, MODELS, 4, base=BASE, outputs=("o_proj", "down_proj"), out_dtype="float32")


def candidates(count: int) -> list[Recipe]:
    return [SPACE.decode(point) for point in np.random.default_rng(1).random((count, SPACE.dimensions))]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    yield Worker(WorkerSpec(BASE, EXPERTS, WORK, ModelConfig(dtype="float32", device="cpu"), flow_bytes=1))


def shipped(recipe: Recipe, folder: Path) -> tuple[str, list[list[Any]]]:
    """The fingerprint of the exported folder, and the responses of the model that transformers loads from it."""
    digest = export_recipe(recipe, Family(BASE, EXPERTS), folder)
    model = load_model(folder, dtype="float32")
    tokenizer = load_tokenizer(folder)
    engine = ScoringEngine(model, tokenizer, Encoder(tokenizer, model_config(folder)))
    with torch.inference_mode():
        return digest, [engine.respond(WORK[chunk]) for chunk in REQUESTS]


def test_what_is_scored_is_what_is_shipped(worker: Worker, tmp_path: Path) -> None:
    baseline = merged(0.5, 0.5)
    before = worker.attempt(job(baseline, "trees")).responses
    for number, recipe in enumerate([*candidates(5), *map(SPACE.decode, SPACE.seed_points().values())]):
        digest, (trees, answers) = shipped(recipe, tmp_path / str(number))
        ours = [worker.attempt(job(recipe, chunk)) for chunk in REQUESTS]
        assert [outcome.error for outcome in ours] == [None, None]
        assert worker.fingerprint(recipe) == digest
        assert ours[0].responses is not None and ours[1].responses == answers
        assert np.allclose([one[0] for one in ours[0].responses], [one[0] for one in trees], rtol=1e-5, atol=1e-5)
    assert worker.attempt(job(baseline, "trees")).responses == before, "a merge of whole models is as it was"


def test_layers_are_shared_by_candidates_and_repeats() -> None:
    family = Family(BASE, EXPERTS)
    materializer, model = Materializer(family, resident=True), load_model(family.base.folder, dtype="float32")
    for seed in SPACE.seed_points().values():
        materializer.write(SPACE.decode(seed), model)
    places: dict[tuple[str, str], int] = {}
    for recipe in candidates(6):
        materializer.write(recipe, model)
        tensors = materializer.live_tensors(model)
        for out, visit in enumerate(visits_of(recipe, 4)):
            for name in ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight"):
                place = tensors[f"model.layers.{out}.{name}"].tensor().data_ptr()
                assert places.setdefault((str(visit.model), f"{visit.layer}.{name}"), place) == place
    assert len(set(places.values())) == len(places) > 20


def test_an_adapters_layers_are_resident_too(tmp_path: Path) -> None:
    folders = save_family("llama", tmp_path, experts=1)
    adapter, _ = save_adapter("llama", folders.base, tmp_path / "lora", rank=3, seed=4)
    models: dict[str, ModelRef] = {"base": folders.base, "lora": adapter}
    space = FlowSpace(FLOW, models, 3, base=folders.base, outputs=("o_proj", "down_proj"), out_dtype="float32")
    family = Family(folders.base, [adapter])
    materializer, model = Materializer(family, resident=True), load_model(family.base.folder, dtype="float32")
    for number, point in enumerate(np.random.default_rng(2).random((3, space.dimensions))):
        recipe = space.decode(point)
        materializer.write(recipe, model)
        digest = export_recipe(recipe, family, tmp_path / f"out{number}")
        places = materializer.live_tensors(model).items()
        assert fingerprint((out, place.tensor()) for out, place in places) == digest
