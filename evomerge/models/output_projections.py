"""The two linear maps with which a layer adds to the residual stream: the last ones of its attention and of its MLP.

Scaling both by s multiplies what the layer adds by s, in architectures that normalise before a part and not after it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from evomerge.errors import ConfigError
from evomerge.models.base import Base
from evomerge.models.groups import layer_of
from evomerge.models.live_model import empty_model

LINEAR = (nn.Linear, Conv1D)
ATTENTION = re.compile(r"attn|attention")
INPUTS = re.compile(r"(^|[_.])(q|k|v|qkv|kv|query|key|value|query_key_value|c_attn|in|Wqkv)(_proj)?$")
AFTER = re.compile(r"post_(feedforward|mlp|self_attn|attn|ffn|moe)|sandwich")  # norms of what a part adds
REMEDY = "leave out space.flow.scale"


def output_filters(base: Base) -> tuple[str, str]:
    """Two filters of tensor names that match the output projections of every layer, and nothing else.

    ConfigError for an architecture in which they cannot be found.
    """
    model = empty_model(base.folder, base.trust_remote_code)
    path = next(place[0] for place in map(layer_of, base.skeleton.parameters) if place)
    layers = model.get_submodule(path)
    assert isinstance(layers, nn.ModuleList)
    found = [_outputs(layer, model, path) for layer in layers]
    names = {name: where for name, where in base.parameter.items() if layer_of(where)}
    return (
        _filter([f"{path}.{i}.{attention}" for i, (attention, _) in enumerate(found)], names),
        _filter([f"{path}.{i}.{mlp}" for i, (_, mlp) in enumerate(found)], names),
    )


def _outputs(layer: nn.Module, model: PreTrainedModel, path: str) -> tuple[str, str]:
    """The paths of the two projections inside a layer."""
    norms = [name for name, module in layer.named_children() if "norm" in type(module).__name__.lower()]
    after = next((name for name in norms if AFTER.search(name)), None) or ("norm" if len(norms) > 2 else None)
    if after or getattr(model.config, "do_layer_norm_before", True) is False:
        raise ConfigError(
            f"space.flow.scale: a layer of {path} normalises what it adds ({after or 'do_layer_norm_before'}), "
            f"so its weights cannot scale it; {REMEDY}"
        )
    width = model.config.get_text_config(decoder=True).hidden_size
    linear = list(_linear(layer, width))
    attention = [name for name in linear if ATTENTION.search(name) and not INPUTS.search(name)]
    mlp = [name for name in linear if not ATTENTION.search(name)]
    inside = (
        name for name, module in layer.named_modules() if "." in name and _closes(module, name, (*attention, *mlp))
    )
    closed = next(inside, None)
    branches = {name.partition(".")[0] if "." in name else "" for name in mlp}
    if (
        not attention
        or len(branches) != 1
        or closed
        or any(isinstance(module, nn.ModuleList) for module in layer.modules())
    ):
        raise ConfigError(f"space.flow.scale: the output projections of the layers {path} cannot be found; {REMEDY}")
    return attention[-1], mlp[-1]


def _linear(layer: nn.Module, width: int) -> Iterator[str]:
    """The linear maps to the width of the residual stream, in the order in which they are made."""
    for name, module in layer.named_modules():
        if isinstance(module, LINEAR):
            size = module.out_features if isinstance(module, nn.Linear) else module.nf
            if size == width:
                yield name


def _closes(module: nn.Module, name: str, outputs: Sequence[str]) -> bool:
    """Whether this is a norm that stands beside one of the projections, as after attention in BERT."""
    parent = name.rpartition(".")[0]
    is_norm = "norm" in type(module).__name__.lower()
    return is_norm and parent.endswith("output") and any(output.rpartition(".")[0] == parent for output in outputs)


def _filter(modules: Sequence[str], names: Mapping[str, str]) -> str:
    """The shortest end of the modules' paths that is in the names of their tensors alone."""
    wanted = {name for name, path in names.items() if path.rpartition(".")[0] in modules}
    parts = modules[0].split(".")
    for length in range(1, len(parts)):
        text = ".".join(parts[-length:])
        if {name for name in names if text in name} == wanted:
            return text
    raise ConfigError(f"space.flow.scale: no filter selects {modules[0]} and its like alone; {REMEDY}")
