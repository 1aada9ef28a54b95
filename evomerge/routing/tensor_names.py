"""Which tensors of a family are the weights of routers."""

import inspect

from torch import nn

from evomerge.errors import ConfigError
from evomerge.models import COMPONENTS, ROUTER, Family, empty_model, layer_of


def has_routers(family: Family) -> bool:
    """Whether the models are mixtures of experts, by the names of their tensors."""
    return any(text in name for name in family.base.destination for text in COMPONENTS[ROUTER] if layer_of(name))


def router_names(family: Family) -> list[str]:
    """The names of the router weights [experts, hidden], in the order of the layers; ConfigError if there is none."""
    base = family.base
    inside = (name for name in base.destination if any(text in name for text in COMPONENTS[ROUTER]))
    layers = {name: place[1] for name in inside if (place := layer_of(name)) and len(base.shape(name)) == 2}
    if not layers:
        raise ConfigError(f"finalise.calibrate_routers: {family.ref} has no routers; leave it out")
    if biased := next((name for name in layers if name.removesuffix("weight") + "bias" in base.destination), None):
        raise ConfigError(f"finalise.calibrate_routers: the router {biased} has a bias, which is not fitted")
    return sorted(layers, key=lambda name: layers[name])


def refuse_other_routing(family: Family) -> None:
    """ConfigError if a router does not choose by a softmax, by its source: HARC's curvature is that of a softmax.

    A linear router has its softmax in the layer around it.
    """
    base = family.base
    model = empty_model(base.folder, base.trust_remote_code)
    for name in router_names(family):
        path = base.parameter[name].rpartition(".")[0]
        router = model.get_submodule(path)
        is_linear = isinstance(router, nn.Linear)
        owner = model.get_submodule(path.rpartition(".")[0]) if is_linear else router
        source = _source(type(owner))
        if "softmax" not in source or (not is_linear and "sigmoid" in source):
            raise ConfigError(f"finalise.calibrate_routers: {name} does not choose by a softmax alone; leave it out")


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # code that is not in a file
        return ""
