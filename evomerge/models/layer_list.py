"""The layers of a live model, replaced by shallow copies in another order: repeated, dropped or stacked.

A copy has parameters of its own, which may share their storage, and its own number, which is its slot in a KV cache.
"""

import copy
from collections.abc import Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from evomerge.errors import CandidateError
from evomerge.models.auto_classes import silence_transformers

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers")
PER_LAYER = (
    "layer_types",
    "mlp_layer_types",
    "layers_block_type",
    "no_rope_layers",
    "layer_rope_theta",
    "attention_layers",
    "sliding_windows",
    "num_key_value_heads_per_layer",
    "num_attention_heads_per_layer",
    "intermediate_size",
    "activation_sparsity_pattern",
)
PLAIN = (bool, int, float, str, tuple, type(None))


def per_layer_values(config: PretrainedConfig, layers: int) -> dict[str, list[Any]]:
    """The lists of a configuration that have one entry for each of its layers."""
    names = dict.fromkeys(config.attribute_map.get(key, key) for key in PER_LAYER)
    kinds = {key: getattr(type(config), key, None) for key in names}
    stored = [key for key, kind in kinds.items() if not (isinstance(kind, property) and kind.fset is None)]
    found = {key: getattr(config, key, None) for key in stored}
    return {
        key: list(value) for key, value in found.items() if isinstance(value, list | tuple) and len(value) == layers
    }


def text_section(config: PretrainedConfig) -> str | None:
    """The key of the language model's section in a configuration of several; None if it is the configuration itself."""
    text = config.get_text_config(decoder=True)
    return next((key for key in config.sub_configs if getattr(config, key, None) is text), None)


class LayerList:
    """The one layer stack of a live model, at the module path `path`."""

    def __init__(self, model: PreTrainedModel, path: str) -> None:
        self._model, self._path = model, path
        layers = model.get_submodule(path)
        assert isinstance(layers, nn.ModuleList)
        self._layers, self._originals = layers, list(layers)
        self._values = per_layer_values(model.config.get_text_config(decoder=True), len(self._originals))
        self._order: tuple[int, ...] | None = None
        self._checked = False

    def arrange(self, order: Sequence[int] | None) -> None:
        """Let layer i be a copy of the original layer `order[i]`, or restore the original layers for None.

        The configuration changes with the layers. CandidateError for an architecture in which a layer's computation
        depends on its number.
        """
        wanted = None if order is None else tuple(order)
        if wanted == self._order:
            return
        if wanted is not None and not self._checked:
            self._refuse_numbered_layers()
            self._checked = True
        places = range(len(self._originals)) if wanted is None else wanted
        layers = self._originals if wanted is None else [self._copy(old, new) for new, old in enumerate(wanted)]
        self._layers._modules = {str(number): layer for number, layer in enumerate(layers)}
        _reconfigure(self._model.config, self._values, places)
        self._order = wanted

    def _copy(self, old: int, new: int) -> nn.Module:
        twin = _shallow_copy(self._originals[old])
        for module in twin.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = new  # type: ignore[assignment]
        return twin

    def _refuse_numbered_layers(self) -> None:
        """CandidateError unless transformers builds the same layers from the configuration of another order."""
        try:
            difference = self._difference()
        except Exception as error:  # architectures raise any exception for a number of layers that they do not expect
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise CandidateError(f"{self._path}: its layers cannot be put in another order ({reason})") from error
        if difference:
            raise CandidateError(
                f"{self._path}: {difference} depends on the numbers of the layers in this architecture; "
                "they cannot be put in another order"
            )

    def _difference(self) -> str | None:
        """What differs between copies of the layers in another order and the layers of a model built in that order."""
        count = len(self._originals)
        order = [*reversed(range(count)), *range(count)]
        config = copy.deepcopy(self._model.config)
        _reconfigure(config, self._values, order)
        with silence_transformers(), torch.device("meta"):
            built = type(self._model)._from_config(config)
        layers = built.get_submodule(self._path)
        if not isinstance(layers, nn.ModuleList) or len(layers) != len(order):
            return "how many there are"
        if other := next(_other_shapes(self._model, built, f"{self._path}."), None):
            return other
        pairs = ((layer, self._copy(old, new)) for (new, old), layer in zip(enumerate(order), layers, strict=True))
        return next((key for ours, theirs in pairs for key in _differences(ours, theirs)), None)


def _reconfigure(config: PretrainedConfig, values: dict[str, list[Any]], order: Sequence[int]) -> None:
    text = config.get_text_config(decoder=True)
    text.num_hidden_layers = len(order)
    for key, value in values.items():
        setattr(text, key, [value[place] for place in order])


def _shallow_copy(module: nn.Module) -> nn.Module:
    """The same module with other dictionaries of parameters, buffers and children; the parameters share storage."""
    twin: nn.Module = module.__class__.__new__(module.__class__)
    content = twin.__dict__  # nn.Module's own assignment takes most of the time of a candidate
    content.update({key: _rebound(value, module, twin) for key, value in module.__dict__.items()})
    content["_buffers"] = dict(module._buffers)
    content["_parameters"] = {
        name: None if value is None else nn.Parameter(value.detach(), requires_grad=False)
        for name, value in module._parameters.items()
    }
    content["_modules"] = {name: child and _shallow_copy(child) for name, child in module._modules.items()}
    return twin


def _rebound(value: Any, module: nn.Module, twin: nn.Module) -> Any:
    """An attribute of the module, of the twin if it is a method of the module."""
    is_own = isinstance(value, MethodType) and value.__self__ is module
    return MethodType(value.__func__, twin) if is_own else value


def _other_shapes(ours: nn.Module, theirs: nn.Module, without: str) -> Iterator[str]:
    """The parameters outside of the layers that have other shapes."""
    shapes = {name: parameter.shape for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        if not name.startswith(without) and shapes.get(name, parameter.shape) != parameter.shape:
            yield name


def _differences(ours: nn.Module, theirs: nn.Module) -> Iterator[str]:
    """The names of the modules and plain attributes in which two layers differ."""
    one, other = dict(ours.named_modules()), dict(theirs.named_modules())
    for name in sorted(one.keys() ^ other.keys()):
        yield name
    for name in sorted(one.keys() & other.keys()):
        first, second = _plain(one[name]), _plain(other[name])
        for key in sorted(first.keys() | second.keys()):
            if first.get(key) != second.get(key):
                yield f"{name}.{key}".lstrip(".")


def _plain(module: nn.Module) -> dict[str, Any]:
    hidden = ("training",)
    return {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, PLAIN) and key not in hidden and not key.startswith("_")
    }
