"""The merged model as a checkpoint folder: sharded safetensors, config, tokenizer, generation config, model card."""

import copy
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.export.card import model_card
from evomerge.export.carry_over import carried_over, under_every_name
from evomerge.export.staging import staged
from evomerge.merging import Fingerprint, Materializer, base_layers, freeze, output_layers
from evomerge.models import EXPLICIT, INDEX, SINGLE, Family, refuse_other_vocabulary, torch_dtype, write_tokenizer
from evomerge.recipes import Recipe, dump_recipe, load_recipe

log = logging.getLogger(__name__)

SHARD_BYTES = 5 * 10**9
COPIED = ("*.json", "*.jinja", "*.model", "*.txt", "*.py", "tokenizer*", "LICENSE*")
MADE_ANEW = ("config.json", "*.index.json", "adapter_config.json")
STORED = {"F32": "float32", "F64": "float32", "F16": "float16", "BF16": "bfloat16"}
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers")
PER_LAYER = ("layer_types", "no_rope_layers")


def merge_recipe(
    source: Path | Recipe, out: Path, *, shard_bytes: int = SHARD_BYTES, trust_remote_code: bool = False
) -> str:
    """Build the model of a recipe or its file, evomerge's or mergekit's, in `out`; returns its fingerprint."""
    recipe, family = open_recipe(source, trust_remote_code)
    return export_recipe(recipe, family, out, shard_bytes=shard_bytes)


def open_recipe(source: Path | Recipe, trust_remote_code: bool = False) -> tuple[Recipe, Family]:
    """A recipe, or a file's, with its models; ExpertError where one is not what the recipe was scored with.

    ConfigError where it asks for a vocabulary that they do not have.
    """
    recipe = load_recipe(source) if isinstance(source, Path) else source
    models = recipe.models()
    family = Family(models[0], models[1:], trust_remote_code)
    refuse_other_vocabulary(recipe, family)
    _refuse_other_weights(recipe, family)
    return recipe, family


def export_recipe(recipe: Recipe, family: Family, out: Path, *, shard_bytes: int = SHARD_BYTES) -> str:
    """Write the folder; a full disk is a RunError, a used folder a ConfigError; a half-written folder is removed."""
    with staged(out) as folder:
        dtype = recipe.out_dtype or _stored_dtype(family)
        _copy_metadata(family.base.folder, folder)
        write_tokenizer(recipe, family, folder)
        materializer = Materializer(family, compiled=False)
        tensors, stacked = materializer.tensors(recipe, torch_dtype(dtype)), output_layers(recipe) is not None
        digest = _write_weights(tensors, family, folder, shard_bytes, stacked)
        _warn_of_another_result(recipe, digest)
        _write_config(recipe, family, dtype, folder)
        kept = freeze(recipe, materializer)
        (folder / "recipe.yaml").write_text(dump_recipe(kept))
        (folder / "README.md").write_text(model_card(kept, dtype))
    return digest


def _copy_metadata(source: Path, target: Path) -> None:
    """Tokenizer, chat template, generation config and custom code, but no weights of any kind."""
    for file in source.iterdir():
        wanted = any(file.match(pattern) for pattern in COPIED) and not any(file.match(p) for p in MADE_ANEW)
        if file.is_file() and wanted:
            shutil.copyfile(file, target / file.name)


def _refuse_other_weights(recipe: Recipe, family: Family) -> None:
    """ExpertError where a model is not the one that the recipe was scored with."""
    recorded = recipe.notes.get("models") or {}
    if not recorded:
        return
    for model, digest in family.hashes().items():
        if recorded.get(model, digest) != digest:
            raise ExpertError(
                f"{model}: not the weights that the recipe was scored with; "
                "bring those back, or delete evomerge.models and evomerge.fingerprint from the recipe"
            )


def _warn_of_another_result(recipe: Recipe, digest: str) -> None:
    """Low-rank products round differently on another kind of processor; anything else gives the scored bytes."""
    scored = str(recipe.notes.get("fingerprint", digest))
    if digest != scored:
        log.warning(
            "the merge has fingerprint %s…, the scored one had %s…: another out_dtype, library or kind of processor",
            digest[:16],
            scored[:16],
        )


def _stored_dtype(family: Family) -> str:
    """The widest dtype among the checkpoints, as mergekit has it where a recipe names none."""
    stored = {STORED[dtype] for dtype in family.dtypes()}
    return stored.pop() if len(stored) == 1 else "float32"


def _write_weights(
    tensors: Iterable[tuple[str, Tensor]], family: Family, folder: Path, shard_bytes: int, stacked: bool
) -> str:
    """Shards of at most `shard_bytes`, one in memory at a time; returns the merged tensors' fingerprint."""
    digest, total = Fingerprint(), 0
    shards: list[list[str]] = []
    merged = under_every_name(_witnessed(tensors, digest), family)
    for held in _shards(merged, carried_over(family, stacked), shard_bytes):
        save_file(held, _shard_path(folder, len(shards)), metadata={"format": "pt"})
        shards.append(list(held))
        total += sum(tensor.nbytes for tensor in held.values())
    _name_shards(shards, total, folder)
    return digest.hexdigest()


def _witnessed(tensors: Iterable[tuple[str, Tensor]], digest: Fingerprint) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        digest.add(name, tensor)
        yield name, tensor


def _shards(
    tensors: Iterable[tuple[str, Tensor]], kept: Iterable[tuple[str, Tensor]], limit: int
) -> Iterator[dict[str, Tensor]]:
    held: dict[str, Tensor] = {}
    size = 0
    for name, tensor in chain(tensors, kept):
        if held and size + tensor.nbytes > limit:
            yield held
            held, size = {}, 0
        held[name] = tensor
        size += tensor.nbytes
    yield held


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index}.safetensors"


def _name_shards(shards: list[list[str]], total: int, folder: Path) -> None:
    """Names by transformers' convention, which counts the shards; made readable, which safetensors leaves out."""
    count = len(shards)
    where: dict[str, str] = {}
    for index, names in enumerate(shards):
        file = SINGLE if count == 1 else f"model-{index + 1:05d}-of-{count:05d}.safetensors"
        os.chmod(_shard_path(folder, index), 0o644)
        _shard_path(folder, index).rename(folder / file)
        where |= dict.fromkeys(names, file)
    if count > 1:
        index_json = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index_json, indent=2))


def _untie(config: dict[str, Any]) -> None:
    """Say that head and embedding are two tensors: transformers sees it in the files, other programs read the flag.

    Only for decoders: encoder-decoders also read from it whether to scale what reaches the head.
    """
    config["tie_word_embeddings"] = False
    for section in config.values():
        if isinstance(section, dict) and "tie_word_embeddings" in section:
            section["tie_word_embeddings"] = False


def _write_config(recipe: Recipe, family: Family, dtype: str, folder: Path) -> None:
    """The base's config with the output's dtype and, for stacked slices, its number of layers."""
    config = copy.deepcopy(family.base.checkpoint.config)
    for key in ("torch_dtype", EXPLICIT):
        config.pop(key, None)
    config["dtype"] = dtype
    if family.base.separate and not family.base.skeleton.is_encoder_decoder:
        _untie(config)
    layers = output_layers(recipe)
    if layers is not None:
        origins = base_layers(recipe)
        for key in LAYER_COUNTS:
            if key in config:
                config[key] = layers
        for key, value in config.items():
            if key in PER_LAYER and isinstance(value, list):
                config[key] = [value[origin] for origin in origins]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
