"""Model and adapter folders with values and tensors that nobody means: each is a line, never a traceback or a hang."""

import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.errors import EvomergeError, ExpertError
from evomerge.merging.materializer import Materializer
from evomerge.models.adapter import Adapter
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.family import Family
from evomerge.recipes.recipe import ModelRef, Source, recipe_of_models

VALUES: list[Any] = [None, {}, [], "", 0, -1, 3, float("nan"), float("inf"), 10**9, 2**70, "nonsense", True, [1, [2]]]
VALUES += [{"a": {"b": 1}}, {"(": 3}, {"q_proj": "x"}, 1.5, [None], "é" * 500]
EXTRA = ("rank_pattern", "alpha_pattern", "trainable_token_indices", "target_parameters", "ensure_weight_tying")
FILES = ("base/config.json", "e0/config.json", "a0/adapter_config.json")
WEIGHTS = ("base/model.safetensors", "e0/model.safetensors", "a0/adapter_model.safetensors")
CASES = 150


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied Llama, an expert and an adapter of its embedding, all of which fit."""
    folder = tmp_path_factory.mktemp("sound")
    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=True))
    for name in ("base", "e0"):
        model.save_pretrained(folder / name)
    with warnings.catch_warnings():  # peft remarks on tied weights
        warnings.simplefilter("ignore")
        config = LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], modules_to_save=["norm"])
        get_peft_model(model, config).save_pretrained(folder / "a0")
    return folder


def merge(folder: Path) -> None:
    base = str(folder / "base")
    family = Family(ModelRef(base), [ModelRef(str(folder / "e0")), ModelRef(base, adapter=str(folder / "a0"))])
    sources = tuple(Source(ref, {"weight": 0.5}) for ref in family.experts)
    for _ in Materializer(family).tensors(recipe_of_models("task_arithmetic", family.ref, sources, {})):
        pass


def spoil_setting(folder: Path, draw: random.Random) -> str:
    path = folder / draw.choice(FILES)
    config = json.loads(path.read_text())
    key, value = draw.choice([*config, *(EXTRA if "adapter" in path.name else ())]), draw.choice(VALUES)
    path.write_text(json.dumps({**config, key: value}))
    return f"{path.name}: {key}={value!r}"


def spoil_tensor(folder: Path, draw: random.Random) -> str:
    path = folder / draw.choice(WEIGHTS)
    tensors = load_file(path)
    name = draw.choice(sorted(tensors))
    changes: dict[str, Callable[[Tensor], dict[str, Tensor]]] = {
        "lost": lambda tensor: {},
        "renamed": lambda tensor: {name.replace("layers.0", "layers.9") + ".x": tensor},
        "reshaped": lambda tensor: {name: torch.zeros(draw.choice([0, 1, 3]), draw.choice([1, 8]))},
        "scalar": lambda tensor: {name: torch.tensor(1.0)},
        "whole numbers": lambda tensor: {name: tensor.to(torch.int8)},
    }
    change = draw.choice(sorted(changes))
    made = changes[change](tensors.pop(name))
    save_file({**tensors, **made}, path, metadata={"format": "pt"})
    return f"{path.name}: {name} {change}"


def spoil_bytes(folder: Path, draw: random.Random) -> str:
    path = folder / draw.choice(WEIGHTS)
    data = bytearray(path.read_bytes())
    place = draw.randrange(min(len(data), 300))
    data[place] = draw.randrange(256)
    path.write_bytes(data[: draw.choice([len(data), place])])
    return f"{path.name}: byte {place}"


@pytest.mark.filterwarnings("ignore")  # libraries remark on what they are given
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("spoil", [spoil_setting, spoil_tensor, spoil_bytes])
def test_it_merges_or_one_line_says_why_not(
    spoil: Callable[[Path, random.Random], str], seed: int, sound: Path, tmp_path: Path
) -> None:
    draw = random.Random(seed)
    refused = 0
    for case in range(CASES // 6):
        folder = Path(shutil.copytree(sound, tmp_path / str(case)))
        done = spoil(folder, draw)
        try:
            merge(folder)
        except EvomergeError as error:
            refused += 1
            assert str(error) and len(str(error)) < 3000, done
        except Exception as error:
            pytest.fail(f"{done} gave {type(error).__name__}: {error}")
    assert refused


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("r", "16", "a rank of 1 or more"),
        ("lora_alpha", float("nan"), "a number"),
        ("rank_pattern", {"(": 4}, "a map from names to ranks"),
        ("alpha_pattern", [8], "a map from names to numbers"),
        ("trainable_token_indices", 3, "a list of tokens"),
        ("target_parameters", "q_proj.weight", "a list of names"),
    ],
)
def test_a_setting_of_an_adapter_is_named(key: str, value: Any, wanted: str, sound: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound / "a0", tmp_path / "a0"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ExpertError, match=f"adapter_config.json: {key} is .*, not {wanted}"):
        Adapter(folder)


@pytest.mark.parametrize(
    "file", ["x" * 300 + ".safetensors", "a\0.safetensors", "../base/model.safetensors", "/etc/passwd"]
)
def test_an_index_that_names_no_file_of_the_folder_is_named(file: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(ExpertError, match=r"index.json: names .*outside of its folder"):
        Checkpoint(tmp_path)
