"""The section `space.flow`: which layers of which models a search puts in order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from evomerge.errors import ConfigError
from evomerge.schema import Count, Label, Natural, Range, as_yaml, build
from evomerge.suggest import did_you_mean

BASE = "base"  # the label of the base among the models of a flow
METHOD = "passthrough"
Scale = Annotated[float, Range(0.0, 100.0)]


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """The data-flow space of Akiba et al. (arXiv 2403.13187): an order of layers, and a scale of each visit.

    `models` are labels, by default the base and all experts. All their layers, model after model and `repeats` times,
    are slots that a candidate visits or leaves out, in this order. `blocks` divides the layers of a model into so many
    runs that are visited as a whole, by default single layers. `scale` is the range of a factor of what the layers of a
    slot add; without it nothing is scaled. `max_layers` is by default one and a half times those of the base. The
    first and the last `pinned` layers of the base begin and end every flow.
    """

    models: Sequence[Label] | None = None
    repeats: Annotated[int, Range(1, 16)] = 2
    blocks: Count | None = None
    scale: Sequence[Scale] | None = None
    max_layers: Count | None = None
    pinned: Natural = 1

    def __post_init__(self) -> None:
        scale = tuple(self.scale or ())
        if self.scale is not None and not (len(scale) == 2 and scale[0] < scale[1] and scale[0] <= 1.0 <= scale[1]):
            raise ConfigError(f"space.flow.scale={as_yaml(list(scale))}: give [low, high] with low ≤ 1 ≤ high")
        if self.models is not None and (not self.models or len(set(self.models)) < len(self.models)):
            raise ConfigError(f"space.flow.models={as_yaml(list(self.models))}: list base and experts, each once")


def read_flow(space: Mapping[str, Any], methods: Sequence[str], experts: Sequence[str]) -> FlowConfig | None:
    """The flow of the section `space`, or None; ConfigError for a value that does not fit, or another method."""
    if space.get("flow") is None:
        if METHOD in methods:
            raise ConfigError(f"method {METHOD} copies layers, so there is nothing to search without space=flow")
        return None
    if list(methods) != [METHOD]:
        raise ConfigError(f"space.flow: it copies layers; set method={METHOD} with it")
    for key in ("genes", "subset"):
        if space.get(key):
            raise ConfigError(f"space.{key}: a flow has none; leave it out, or leave out space.flow")
    if space.get("router", "merge") != "merge":
        raise ConfigError("space.router: a flow copies whole layers with their routers; leave it out")
    flow = build(FlowConfig, space["flow"], "space.flow")
    known = (BASE, *experts)
    if unknown := next((label for label in flow.models or () if label not in known), None):
        raise ConfigError(f"space.flow.models: {unknown} is no model of this search{did_you_mean(unknown, known)}")
    return flow
