"""The parameters of an architecture's language model, its ties between them, and its rules for loading checkpoints.

It is built on the meta device from a configuration alone. Whether tied parameters are tied in a checkpoint depends on
its files (`stored.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from evomerge.models.checkpoint import Shape
from evomerge.models.destinations import LoadingRules
from evomerge.models.live_model import as_expert_error, empty_model

OTHER_MODALITIES = ("vision", "vq", "image", "video", "audio", "speech")


@dataclass(frozen=True)
class Skeleton:
    """The parameters of the language model, and those that a merge does not change, by their paths in the live model.

    A tied parameter is in `parameters` under its first path. `aliases` maps its other paths to the first one.
    """

    parameters: Mapping[str, Shape]
    aliases: Mapping[str, str]
    unread: frozenset[str]  # tied paths that no forward pass reads, such as T5's `shared`
    frozen: frozenset[str]  # not trained, and computed if a file lacks them, such as sinusoidal positions
    outside: frozenset[str]  # parameters outside the language model, such as those of a vision encoder
    buffers: frozenset[str]
    transposed: frozenset[str]  # stacks of matrices that are stored as [in, out], as of GPT-OSS
    ignored: tuple[str, ...]  # patterns of stored names that the architecture ignores
    rules: LoadingRules
    is_encoder_decoder: bool

    def shape(self, path: str) -> Shape:
        """The shape of the parameter at this path."""
        return self.parameters[self.aliases.get(path, path)]

    def members(self, path: str) -> tuple[str, ...]:
        """All paths of the parameter at `path`, the first path first."""
        first = self.aliases.get(path, path)
        return (first, *(alias for alias, target in self.aliases.items() if target == first))

    def of_module(self, module: str) -> tuple[str, ...]:
        """The paths of the parameters that the module of this name has itself, in their order."""
        return self._by_module.get(module, ())

    @cached_property
    def _by_module(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for path in self.parameters:
            module = path.rpartition(".")[0]
            found[module] = (*found.get(module, ()), path)
        return found

    @cached_property
    def paths(self) -> frozenset[str]:
        """All paths of all parameters of the language model."""
        return frozenset(self.parameters) | frozenset(self.aliases)


def skeleton(folder: Path, trust_remote_code: bool = False) -> Skeleton:
    """The skeleton of the architecture in `folder`; ExpertError for a kind that cannot be merged."""
    model = empty_model(folder, trust_remote_code)
    with as_expert_error(folder, "its language model cannot be identified"):
        return _read(model)


def _read(model: PreTrainedModel) -> Skeleton:
    named = dict(model.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    aliases = {path: first[id(p)] for path, p in named.items() if first.setdefault(id(p), path) != path}
    language_model = _language_model(model)
    parameters = {path: tuple(p.shape) for path, p in named.items() if path not in aliases and id(p) in language_model}
    return Skeleton(
        parameters=parameters,
        aliases={path: target for path, target in aliases.items() if target in parameters},
        unread=_unread(model, aliases),
        frozen=frozenset(path for path in parameters if not named[path].requires_grad),
        outside=frozenset(named) - frozenset(parameters) - frozenset(aliases),
        buffers=frozenset(model.state_dict()) - frozenset(named),
        transposed=frozenset(
            f"{path}.{name}"
            for path, module in model.named_modules()
            if getattr(module, "is_transposed", False)
            for name, _ in module.named_parameters(recurse=False)
        ),
        ignored=tuple(model._keys_to_ignore_on_load_unexpected or ()),
        rules=LoadingRules(model),
        is_encoder_decoder=bool(model.config.is_encoder_decoder),
    )


def _language_model(model: PreTrainedModel) -> set[int]:
    """The `id`s of the parameters of the language model, which may be a part of the model."""
    text = model.config.get_text_config()
    if text is model.config:
        return _parameter_ids([model]) - _parameter_ids(_other_modality_modules(model))
    parts = [model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()]
    if model.config.is_encoder_decoder:
        encoder = model.get_encoder()  # of a multimodal encoder, `get_decoder` returns the text part
        parts.append(encoder.get_decoder() if isinstance(encoder, PreTrainedModel) else encoder)
    return _parameter_ids(part for part in parts if part is not None)


def _other_modality_modules(model: PreTrainedModel) -> list[nn.Module]:
    """Modules with a configuration for images or sounds, in a model whose language model has no separate section."""
    sections = [getattr(model.config, key) for key in model.config.sub_configs if key.startswith(OTHER_MODALITIES)]
    kinds = tuple(type(section) for section in sections)
    return [part for part in model.modules() if isinstance(getattr(part, "config", None), kinds)]


def _parameter_ids(modules: Iterable[nn.Module]) -> set[int]:
    return {id(parameter) for module in modules for parameter in module.parameters()}


def _unread(model: PreTrainedModel, aliases: Mapping[str, str]) -> frozenset[str]:
    """Tied paths of an encoder-decoder that are neither input embeddings of one side nor the head."""
    if not model.config.is_encoder_decoder or not aliases:
        return frozenset()
    sides = (model.get_encoder(), model.get_decoder())
    read = [*(side.get_input_embeddings() for side in sides), model.get_output_embeddings()]
    tied = set(aliases) | set(aliases.values())
    return frozenset(path for path in tied if model.get_submodule(path.rpartition(".")[0]) not in read)
