"""Which tensors of a family are the weights of routers."""

from evomerge.errors import ConfigError
from evomerge.models import COMPONENTS, ROUTER, Family, layer_of


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
