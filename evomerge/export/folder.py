"""Exports a merged model as a checkpoint folder: sharded safetensors, configs, tokenizer, recipe and model card."""

import copy
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from evomerge.errors import ConfigError, ExpertError
from evomerge.export.card import model_card
from evomerge.export.carry_over import unmerged_tensors, with_tied_copies
from evomerge.export.evidence import Evidence, find_evidence
from evomerge.export.reproduction import REPRODUCE, reproduction
from evomerge.export.staging import atomic_folder
from evomerge.merging import Fingerprint, Materializer, base_layers, freeze, idle_filters, keep_routers, output_layers
from evomerge.models import (
    DEQUANTISED_DTYPE,
    INDEX_FILE,
    LAYER_COUNTS,
    SINGLE_FILE,
    WEIGHTS_KEY,
    Family,
    model_config,
    per_layer_values,
    set_vocabulary,
    text_section,
    torch_dtype,
    with_vocabulary,
    write_generation_config,
    write_tokenizer,
)
from evomerge.recipes import Recipe, dump_recipe, load_recipe, request_of

log = logging.getLogger(__name__)

SHARD_BYTES = 5 * 10**9
COPIED_PATTERNS = ("*.json", "*.jinja", "*.model", "*.txt", "*.py", "tokenizer*", "LICENSE*")
NOT_COPIED = ("config.json", "*.index.json", "adapter_config.json", "dequantised.json", "reproduce.json")
OUT_DTYPES = {"F32": "float32", "F64": "float32", "F16": "float16", "BF16": "bfloat16"}


def merge_recipe(
    source: Path | Recipe, out: Path, *, shard_bytes: int = SHARD_BYTES, trust_remote_code: bool = False
) -> str:
    """Build the model of a recipe, or of a recipe file of evomerge or mergekit, in `out`; returns its fingerprint."""
    recipe, family = open_recipe(source, trust_remote_code)
    return export_recipe(recipe, family, out, shard_bytes=shard_bytes, evidence=find_evidence(source, recipe))


def open_recipe(source: Path | Recipe, trust_remote_code: bool = False) -> tuple[Recipe, Family]:
    """A recipe, or that of a file, with its models.

    The models are those of the recipe and of its vocabulary. ExpertError if the weights of a model differ from those
    that the recipe was scored with; ConfigError if the recipe requests a vocabulary that cannot be made, or was scored
    with another dtype of a quantised model.
    """
    recipe = load_recipe(source) if isinstance(source, Path) else source
    request = request_of(recipe)
    # The models of a search's vocabulary begin with its base, which a recipe for two experts does not name.
    base, *others = dict.fromkeys((*request.models, *recipe.models()))
    family = Family(base, others, trust_remote_code, request)
    family.log_notes()
    _refuse_other_dequantisation(recipe, family)
    _refuse_other_weights(recipe, family)
    if idle := idle_filters(recipe, family.layout):
        log.warning("the filter %r matches the name of no tensor, so its value has no effect", idle[0])
    return with_vocabulary(recipe, family), family


def export_recipe(
    recipe: Recipe, family: Family, out: Path, *, shard_bytes: int = SHARD_BYTES, evidence: Evidence | None = None
) -> str:
    """Write the folder and return the fingerprint; the model card has the results in `evidence`.

    ConfigError if the folder is not empty, RunError if writing fails; an incomplete folder is removed.
    """
    with atomic_folder(out) as folder:
        dtype = recipe.out_dtype or _stored_dtype(family)
        _copy_metadata(family.base.folder, folder)
        write_tokenizer(recipe, family, folder)
        write_generation_config(family, folder)
        materializer = Materializer(family, compiled=False)
        tensors = materializer.tensors(recipe, torch_dtype(dtype))
        order = None if output_layers(recipe) is None else base_layers(recipe)
        digest = _write_weights(tensors, family, folder, shard_bytes, order)
        _warn_of_another_result(recipe, digest)
        _write_config(recipe, family, dtype, folder)
        frozen = family.with_dequantisation(freeze(recipe, materializer))
        (folder / "recipe.yaml").write_text(dump_recipe(frozen))
        keep_routers(recipe, folder)
        found = evidence or Evidence()
        (folder / "README.md").write_text(model_card(frozen, dtype, out.name, found))
        (folder / REPRODUCE).write_text(reproduction(frozen, family, digest, found))
    return digest


def _copy_metadata(source: Path, target: Path) -> None:
    """Copy the tokenizer, chat template, generation config and custom code."""
    for file in source.iterdir():
        is_metadata = any(file.match(pattern) for pattern in COPIED_PATTERNS) and not any(
            file.match(p) for p in NOT_COPIED
        )
        if file.is_file() and is_metadata:
            shutil.copyfile(file, target / file.name)


def _refuse_other_weights(recipe: Recipe, family: Family) -> None:
    """ExpertError if the weights of a model differ from those that the recipe was scored with."""
    recorded = recipe.notes.get("models") or {}
    if not recorded:
        return
    for model, digest in family.hashes().items():
        if recorded.get(model, digest) != digest:
            raise ExpertError(
                f"{model}: not the weights that the recipe was scored with; "
                "bring those back, or delete evomerge.models and evomerge.fingerprint from the recipe"
            )


def _refuse_other_dequantisation(recipe: Recipe, family: Family) -> None:
    """ConfigError if a quantised model would be dequantised to another dtype than the recipe was scored with."""
    recorded = recipe.notes.get("dequantised")
    for model, each in family.dequantised.items():
        dtype = recorded[model].get("dtype") if isinstance(recorded, dict) and model in recorded else None
        if dtype and dtype != each.origin.dtype:
            raise ConfigError(
                f"{model}: would be dequantised to {each.origin.dtype}, the recipe was made with {dtype}; "
                f"set {DEQUANTISED_DTYPE}={dtype}"
            )


def _warn_of_another_result(recipe: Recipe, digest: str) -> None:
    """Warn if the fingerprint differs from the scored one, for example because another processor rounds differently."""
    scored = str(recipe.notes.get("fingerprint", digest))
    if digest != scored:
        log.warning(
            "the merge has fingerprint %s…, the scored one had %s…: another out_dtype, library or kind of processor",
            digest[:16],
            scored[:16],
        )


def _stored_dtype(family: Family) -> str:
    """The common dtype of the checkpoints, or float32 if they differ, for a recipe that names none (as in mergekit)."""
    stored = {OUT_DTYPES[dtype] for dtype in family.dtypes()}
    return stored.pop() if len(stored) == 1 else "float32"


def _write_weights(
    tensors: Iterable[tuple[str, Tensor]],
    family: Family,
    folder: Path,
    shard_bytes: int,
    order: Sequence[int] | None,
) -> str:
    """Write shards of at most `shard_bytes`, one in memory at a time; returns the fingerprint of the merged tensors."""
    digest, total = Fingerprint(), 0
    shards: list[list[str]] = []
    merged = with_tied_copies(_fingerprinted(tensors, digest), family)
    for shard in _shards(merged, unmerged_tensors(family, order), shard_bytes):
        save_file(shard, _shard_path(folder, len(shards)), metadata={"format": "pt"})
        shards.append(list(shard))
        total += sum(tensor.nbytes for tensor in shard.values())
    _name_shards(shards, total, folder)
    return digest.hexdigest()


def _fingerprinted(tensors: Iterable[tuple[str, Tensor]], digest: Fingerprint) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        digest.add(name, tensor)
        yield name, tensor


def _shards(
    merged: Iterable[tuple[str, Tensor]], unmerged: Iterable[tuple[str, Tensor]], shard_bytes: int
) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in chain(merged, unmerged):
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index}.safetensors"


def _name_shards(shards: list[list[str]], total: int, folder: Path) -> None:
    """Rename the shards by transformers' convention, which includes their number; make them readable for all users."""
    count = len(shards)
    where: dict[str, str] = {}
    for index, names in enumerate(shards):
        file = SINGLE_FILE if count == 1 else f"model-{index + 1:05d}-of-{count:05d}.safetensors"
        os.chmod(_shard_path(folder, index), 0o644)
        _shard_path(folder, index).rename(folder / file)
        where |= dict.fromkeys(names, file)
    if count > 1:
        index_json = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX_FILE).write_text(json.dumps(index_json, indent=2))


def _untie(config: dict[str, Any]) -> None:
    """Set the flag that head and embedding are separate tensors, for programs that do not check the files for it.

    Not for encoder-decoders, in which the flag also decides whether the inputs of the head are scaled.
    """
    config["tie_word_embeddings"] = False
    for section in config.values():
        if isinstance(section, dict) and "tie_word_embeddings" in section:
            section["tie_word_embeddings"] = False


def _stack_layers(config: dict[str, Any], order: Sequence[int], family: Family) -> None:
    """Set the number of layers, and the lists with an entry for each layer, to those of the base in this order."""
    base = model_config(family.base.folder, family.base.trust_remote_code)
    name, text = text_section(base), base.get_text_config(decoder=True)
    section = config[name] if name else config
    counts = [key for key in LAYER_COUNTS if key in section] or ["num_hidden_layers"]
    section |= dict.fromkeys(counts, len(order))
    for key, values in per_layer_values(text, family.layout.layers).items():
        if key in section or key not in text.attribute_map:  # a list that the file leaves out depends on the count
            section[key] = [values[place] for place in order]


def _write_config(recipe: Recipe, family: Family, dtype: str, folder: Path) -> None:
    """Write the base's config with the output's dtype, its rows and, for a recipe with slices, the number of layers."""
    config = copy.deepcopy(family.base.checkpoint.config)
    for key in ("torch_dtype", WEIGHTS_KEY):
        config.pop(key, None)
    config["dtype"] = dtype
    set_vocabulary(config, family)
    if family.base.untied and not family.base.skeleton.is_encoder_decoder:
        _untie(config)
    if output_layers(recipe) is not None:
        _stack_layers(config, base_layers(recipe), family)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
