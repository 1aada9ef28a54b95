"""What an architecture wants filled: the language model's parameters, which of them are one, and by which rules.

Built on the meta device from a configuration alone; what is tied in a checkpoint is for its files to say (`stored.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from evomerge.models.destinations import LoadingRules, Shape
from evomerge.models.live_model import empty_model, in_one_line, refuse_unmergeable

SENSES = ("vision", "vq", "image", "video", "audio", "speech")


@dataclass(frozen=True)
class Skeleton:
    """The places of the language model, and of what a merge leaves alone.

    Paths are those of the live model. A tied parameter stands in `parameters` under its first path; its other paths
    are in `aliases`.
    """

    parameters: Mapping[str, Shape]
    aliases: Mapping[str, str]
    unread: frozenset[str]  # tied paths that no forward pass reads, such as T5's `shared`
    frozen: frozenset[str]  # not trained, and made by the architecture where a file lacks them: sinusoidal positions
    outside: frozenset[str]  # parameters of other towers, such as a vision encoder
    buffers: frozenset[str]
    ignored: tuple[str, ...]  # patterns of stored names that the architecture has no use for
    rules: LoadingRules
    is_encoder_decoder: bool

    def shape(self, path: str) -> Shape:
        """The shape of what stands at the path of a parameter."""
        return self.parameters[self.aliases.get(path, path)]

    def members(self, path: str) -> tuple[str, ...]:
        """Every path of the parameter at `path`, its first path first."""
        first = self.aliases.get(path, path)
        return (first, *(alias for alias, target in self.aliases.items() if target == first))

    @cached_property
    def paths(self) -> frozenset[str]:
        """Every path of every parameter of the language model."""
        return frozenset(self.parameters) | frozenset(self.aliases)


def skeleton(folder: Path, trust_remote_code: bool = False) -> Skeleton:
    """The skeleton of the architecture in `folder`; ExpertError for a kind that cannot be merged."""
    refuse_unmergeable(folder, trust_remote_code)
    model = empty_model(folder, trust_remote_code)
    with in_one_line(folder, "its language model cannot be told from the rest"):
        return _read(model)


def _read(model: PreTrainedModel) -> Skeleton:
    named = dict(model.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    aliases = {path: first[id(p)] for path, p in named.items() if first.setdefault(id(p), path) != path}
    own = _language_model(model)
    parameters = {path: tuple(p.shape) for path, p in named.items() if path not in aliases and id(p) in own}
    return Skeleton(
        parameters=parameters,
        aliases={path: target for path, target in aliases.items() if target in parameters},
        unread=_unread(model, aliases),
        frozen=frozenset(path for path in parameters if not named[path].requires_grad),
        outside=frozenset(named) - frozenset(parameters) - frozenset(aliases),
        buffers=frozenset(model.state_dict()) - frozenset(named),
        ignored=tuple(model._keys_to_ignore_on_load_unexpected or ()),
        rules=LoadingRules(model),
        is_encoder_decoder=bool(model.config.is_encoder_decoder),
    )


def _language_model(model: PreTrainedModel) -> set[int]:
    """The identities of the parameters that belong to the language model, which may be a part of the model."""
    text = model.config.get_text_config()
    if text is model.config:
        return _identities([model]) - _identities(_other_senses(model))
    parts = [model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()]
    if model.config.is_encoder_decoder:
        encoder = model.get_encoder()  # which may see besides; its own "decoder" is then its text part
        parts.append(encoder.get_decoder() if isinstance(encoder, PreTrainedModel) else encoder)
    return _identities(part for part in parts if part is not None)


def _other_senses(model: PreTrainedModel) -> list[nn.Module]:
    """Parts with a configuration of their own for images or sounds, where the language model's has no section."""
    sections = [getattr(model.config, key) for key in model.config.sub_configs if key.startswith(SENSES)]
    kinds = tuple(type(section) for section in sections)
    return [part for part in model.modules() if isinstance(getattr(part, "config", None), kinds)]


def _identities(modules: Iterable[nn.Module]) -> set[int]:
    return {id(parameter) for module in modules for parameter in module.parameters()}


def _unread(model: PreTrainedModel, aliases: Mapping[str, str]) -> frozenset[str]:
    """Tied paths of an encoder-decoder that are neither side's input embeddings nor the head."""
    if not model.config.is_encoder_decoder or not aliases:
        return frozenset()
    sides = (model.get_encoder(), model.get_decoder())
    read = [*(side.get_input_embeddings() for side in sides), model.get_output_embeddings()]
    tied = set(aliases) | set(aliases.values())
    return frozenset(path for path in tied if model.get_submodule(path.rpartition(".")[0]) not in read)
