"""Files of models and adapters: configurations, indexes and headers with values that nobody means."""

import contextlib
import json
import math
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import LlamaConfig

from evomerge.merging.router_file import read_routers
from evomerge.models.adapter_config import read_config, selects
from evomerge.models.checkpoint import INDEX_FILE, SINGLE_FILE, Checkpoint
from evomerge.models.live_model import full_config
from evomerge.models.skeleton import skeleton
from evomerge.recipes import TensorFile
from tests.fuzz.budget import inputs
from tests.fuzz.outcomes import REFUSED, files_of, outcome
from tests.fuzz.values import changed, is_writable, torn

ADAPTER: dict[str, Any] = {
    "peft_type": "LORA", "base_model_name_or_path": "owner/base", "r": 16, "lora_alpha": 32.5, "use_rslora": False,
    "target_modules": ["q_proj", "v_proj"], "exclude_modules": None, "modules_to_save": None, "bias": "none",
    "rank_pattern": {"layers.0.q_proj": 8}, "alpha_pattern": {"layers.0.q_proj": 16}, "layers_to_transform": None,
    "layers_pattern": None, "init_lora_weights": True, "fan_in_fan_out": False, "use_dora": False,
    "target_parameters": None, "trainable_token_indices": None, "layer_replication": None, "inference_mode": True,
}  # fmt: skip
MODEL = LlamaConfig(
    vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2
).to_dict() | {"architectures": ["LlamaForCausalLM"]}
INDEX: dict[str, Any] = {
    "metadata": {"total_size": 32},
    "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
}
HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The working directory, with two shards; libraries remark on what they are given."""
    with contextlib.chdir(tmp_path_factory.mktemp("models")), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("adapter", "model", "shards", "single"):
            Path(name).mkdir()
        for name, file in INDEX["weight_map"].items():
            save_file({name: torch.zeros(2, 2)}, Path("shards") / file, metadata={"format": "pt"})
        yield


def write_json(path: Path, document: Any) -> bool:
    """Write what a program could write; False for values that are in no JSON file."""
    if is_writable(document):
        with contextlib.suppress(TypeError):  # two kinds of keys
            path.write_text(json.dumps(document))
            return True
    return False


@given(changed(ADAPTER))
@inputs(250)
def test_a_configuration_of_an_adapter(document: Any) -> None:
    path = Path("adapter/adapter_config.json")
    if write_json(path, document):
        config = outcome("adapter configuration", lambda: read_config(path.parent), named="adapter")
        if config is not REFUSED:
            assert json.dumps(config) == json.dumps(json.loads(path.read_text()))
            for key in ("r", "lora_alpha"):
                assert type(config.get(key, 1)) in (int, float) and math.isfinite(config.get(key, 1))
            outcome("adapted modules", lambda: selects(config, "model.layers.0.self_attn.q_proj"))


@given(torn([json.dumps(ADAPTER)]))
@inputs(100)
def test_a_torn_configuration_of_an_adapter(text: str) -> None:
    path = Path("adapter/adapter_config.json")
    path.write_bytes(text.encode(errors="surrogatepass"))
    outcome("adapter text", lambda: read_config(path.parent), named="adapter")


@given(changed(MODEL))
@inputs(40)
def test_a_configuration_of_a_model(document: Any) -> None:
    path = Path("model/config.json")
    if write_json(path, document):
        outcome("model configuration", lambda: full_config(path.parent), named="model")
        if not _is_large(document):
            outcome("model skeleton", lambda: skeleton(path.parent), named="model")


def _is_large(document: Any) -> bool:
    """Whether the architecture would make very many modules of it, which takes as long as it says."""
    layers = document.get("num_hidden_layers", 1) if isinstance(document, dict) else 1
    return isinstance(layers, int | float) and not layers < 1000


@given(changed(INDEX))
@inputs(150)
def test_an_index_of_shards(document: Any) -> None:
    folder = Path("shards")
    if write_json(folder / INDEX_FILE, document):
        before = files_of(Path())
        found = outcome("index of shards", lambda: list(Checkpoint(folder)), named="shards")
        assert found is REFUSED or set(found) <= {"a", "b"}
        assert files_of(Path()) == before


@given(st.one_of(changed(HEADER).filter(is_writable).map(json.dumps), torn([json.dumps(HEADER)])), st.integers(-3, 40))
@inputs(200)
def test_a_header_of_a_file(header: str, more: int) -> None:
    text = header.encode(errors="surrogatepass")
    path = Path("single") / SINGLE_FILE
    path.write_bytes(
        struct.pack("<Q", max(0, len(text) + (more if more < 0 else 0))) + text + bytes(more if more > 0 else 24)
    )
    checkpoint = outcome("header", lambda: Checkpoint(path.parent), named="single")
    if checkpoint is not REFUSED:
        for name in checkpoint:
            outcome(
                "tensor", lambda name=name: (checkpoint.shape(name), checkpoint.nbytes(name), checkpoint.tensor(name))
            )
    file = TensorFile(str(path), "not its hash")
    outcome("routers", lambda: read_routers(file), named=str(path))
