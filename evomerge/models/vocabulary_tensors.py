"""Which parameters of an architecture have a row for each token, found by building it with a larger vocabulary."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from evomerge.errors import ExpertError
from evomerge.models.auto_classes import model_config
from evomerge.models.checkpoint import Shape
from evomerge.models.live_model import as_expert_error, empty_model

PROBE = 64  # rows that are added, a multiple of what architectures pad to
ROWS_KEY = "vocab_size"


def vocabulary_axes(folder: Path, trust_remote_code: bool) -> dict[str, int]:
    """Path → the axis of its tokens, for every parameter with a row for each token.

    ExpertError if a buffer has such rows, or a parameter depends on their number in another way.
    """
    config = model_config(folder, trust_remote_code)
    rows = row_count(config, folder)
    small = empty_model(folder, trust_remote_code)
    large = empty_model(folder, trust_remote_code, config=with_rows(config, rows, rows + PROBE))
    after, parameters = _shapes(large), dict(small.named_parameters(remove_duplicate=False))
    found = {}
    for path, shape in _shapes(small).items():
        if shape == after[path]:
            continue
        axis = next(i for i, (old, new) in enumerate(zip(shape, after[path], strict=True)) if old != new)
        grown = (*shape[:axis], shape[axis] + PROBE, *shape[axis + 1 :])
        if path not in parameters or grown != after[path] or shape[axis] != rows:
            raise ExpertError(
                f"{folder}: {path} depends on the number of tokens in a way that cannot be merged into another "
                "vocabulary; align the models' vocabularies first"
            )
        found[path] = axis
    return found


def row_count(config: PretrainedConfig, folder: Path) -> int:
    """The number of rows of the embedding by the configuration."""
    rows = getattr(config.get_text_config(), ROWS_KEY, None)
    if not isinstance(rows, int):
        raise ExpertError(f"{folder}: its configuration has no {ROWS_KEY}; other vocabularies cannot be merged into it")
    return rows


def with_rows(config: PretrainedConfig, old: int, new: int) -> PretrainedConfig:
    """The configuration, changed in place, with another number of rows in every section that has the old one."""
    for section in config_sections(config):
        if getattr(section, ROWS_KEY, None) == old:
            setattr(section, ROWS_KEY, new)
    return config


def config_sections(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    """The configuration and all configurations in it."""
    yield config
    for key in config.sub_configs:
        if isinstance(section := getattr(config, key, None), PretrainedConfig):
            yield from config_sections(section)


def resize(model: PreTrainedModel, folder: Path, rows: int) -> None:
    """Give the loaded model so many rows; the values of new rows are those of no token, to be written."""
    if row_count(model.config, folder) == rows:
        return
    with as_expert_error(folder, f"its vocabulary cannot be resized to {rows} rows"):
        model.resize_token_embeddings(rows, mean_resizing=False)


def set_token_ids(model: PreTrainedModel, changed: Callable[[Mapping[str, Any], str], Mapping[str, Any]]) -> None:
    """Set the ids of special tokens in the live model's configurations to those that `changed` returns for a file."""
    for section in config_sections(model.config):
        for key, value in changed(section.to_dict(), "config.json").items():
            setattr(section, key, value)
    generation = model.generation_config
    if isinstance(generation, GenerationConfig):
        for key, value in changed(generation.to_dict(), "generation_config.json").items():
            setattr(generation, key, value)


def _shapes(model: PreTrainedModel) -> dict[str, Shape]:
    state = {**model.state_dict(), **dict(model.named_parameters(remove_duplicate=False))}
    return {path: tuple(tensor.shape) for path, tensor in state.items()}
