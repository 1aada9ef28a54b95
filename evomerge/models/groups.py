"""The position of a tensor in the model: its layer stack, layer number and component, for every architecture.

All of it follows from names. A stack is a sequence of numbered layers (`model.layers`, `transformer.h`,
`encoder.block`). Tensors outside every stack, such as embeddings, final norms and heads, are called outer tensors.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from evomerge.errors import ConfigError
from evomerge.schema import as_yaml

LAYER_PATTERN = re.compile(r"^((?:.*?\.)?(?:layers|layer|blocks|block|h))\.(\d+)\.")
OUTER_PATTERNS = {
    "head": re.compile(r"lm_head|embed_out|output"),  # before the embeddings, because `embed` also matches `embed_out`
    "embeddings": re.compile(r"embed|wte|wpe|shared"),
    "final_norm": re.compile(r"norm|ln_f"),
}
# Substrings instead of patterns, because a recipe's filters are substrings. The dots exclude `post_attention_layernorm`
# from attention. More specific components come first.
COMPONENTS: dict[str, tuple[str, ...]] = {
    "cross_attention": ("EncDecAttention.", "encoder_attn.", "crossattention."),
    "norms": ("norm", "ln_1.", "ln_2."),
    "attention": ("self_attn.", "SelfAttention.", "EncDecAttention.", "attention.", "attn."),
    "router": ("mlp.gate.", "moe.gate.", "mixer.gate.", "router."),
    "shared_experts": ("shared_expert", "share_expert.", "shared_mlp."),
    "experts": ("experts.", "moe."),
    "mlp": ("mlp.", "DenseReluDense.", "feed_forward.", "block_sparse_moe.", "fc1.", "fc2."),
    "encoder": ("encoder.",),
    "decoder": ("decoder.",),
}


ROUTER = "router"


@dataclass(frozen=True)
class Group:
    """Tensors that share coefficients at each depth: those whose name contains one of `filters` (None matches all).

    A frozen group has no coefficients; its tensors are the base's.
    """

    name: str
    filters: tuple[str | None, ...]
    layered: bool
    frozen: bool = False


@lru_cache(maxsize=1 << 16)
def layer_of(name: str) -> tuple[str, int] | None:
    """The stack and layer number of a tensor, or None for an outer tensor."""
    match = LAYER_PATTERN.match(name)
    return (match[1], int(match[2])) if match else None


def shift_layer(name: str, stack: str, offset: int) -> str:
    """The name of the same tensor `offset` layers deeper in its stack; a negative offset is nearer to the input."""
    match = LAYER_PATTERN.match(name)
    if not match or match[1] != stack:
        return name
    return f"{stack}.{int(match[2]) + offset}.{name[match.end() :]}"


def outer_kind(name: str) -> str:
    """The group of an outer tensor: head, embeddings, final_norm or other."""
    return next((kind for kind, pattern in OUTER_PATTERNS.items() if pattern.search(name)), "other")


class Layout:
    """The stacks of one model and the relative depth of each of its tensors."""

    def __init__(self, names: Iterable[str], parameters: Mapping[str, str] | None = None) -> None:
        self.names = tuple(names)
        self._parameters = dict(parameters or {})
        self.stacks: dict[str, int] = {}
        for name in self.names:
            if place := layer_of(name):
                self.stacks[place[0]] = max(self.stacks.get(place[0], 0), place[1] + 1)

    def names_of(self, name: str) -> tuple[str, ...]:
        """The tensor's name in the base's files and, if it differs, in the model (`h.0.…`, `transformer.h.0.…`)."""
        parameter = self._parameters.get(name, name)
        return (name,) if parameter == name else (name, parameter)

    @property
    def layers(self) -> int:
        """The number of layers of the deepest stack."""
        return max(self.stacks.values(), default=0)

    def depth(self, name: str) -> float:
        """Relative depth 0 … 1 in the tensor's stack; 0 for outer tensors, 1 for a single layer (as in mergekit)."""
        place = layer_of(name)
        return relative_depth(place[1], self.stacks[place[0]]) if place else 0.0

    def outer(self) -> dict[str, tuple[str, ...]]:
        """Outer group → its tensor names."""
        kinds: dict[str, list[str]] = {}
        for name in self.names:
            if layer_of(name) is None:
                kinds.setdefault(outer_kind(name), []).append(name)
        return {kind: tuple(names) for kind, names in kinds.items()}

    def groups(
        self, components: str | Iterable[str] | Mapping[str, Iterable[str]], outer: str, router: str = "merge"
    ) -> tuple[Group, ...]:
        """The outer groups, the components in order, and a group of all other layer tensors; the first match wins.

        With `router` keep, the routers of a mixture of experts are a frozen group before the components.
        """
        layered = [name for name in self.names if layer_of(name)]
        groups = list(self._outer_groups(outer))
        if router != "merge":
            groups.append(_kept_routers(router, layered))
            layered = [name for name in layered if not any(str(text) in name for text in groups[-1].filters)]
        for component, filters in _component_filters(
            [components] if isinstance(components, str) else components
        ).items():
            if component == ROUTER and router != "merge":
                raise ConfigError("space.components: router: space.router=keep keeps it; leave one of the two out")
            matching: list[str] = []
            for text in filters:
                others = [name for name in layered if not any(text in known for known in self.names_of(name))]
                if len(others) < len(layered):
                    matching.append(text)
                layered = others
            if not matching:
                raise ConfigError(f"space.components: no tensor's name contains any of {list(filters)} ({component})")
            groups.append(Group(component, tuple(matching), layered=True))
        if layered:
            groups.append(Group("rest" if components else "layers", (None,), layered=True))
        return tuple(groups)

    def _outer_groups(self, outer: str) -> Iterable[Group]:
        kinds = self.outer()
        if outer not in ("joint", "each", "base"):
            raise ConfigError(
                f"space.outer={as_yaml(outer)}: choose joint (one group), each (a group a kind) or base (not merged)"
            )
        for name in (name for names in kinds.values() for name in names):
            if any(name in other for other in self.names if layer_of(other)):
                raise ConfigError(f"{name}: its name is part of a layer's; save the base with its language-model head")
        if outer == "each":
            yield from (Group(kind, names, layered=False) for kind, names in kinds.items())
        elif kinds:
            names = tuple(name for kind in kinds.values() for name in kind)
            yield Group("outer", names, layered=False, frozen=outer == "base")


def _kept_routers(router: str, layered: Iterable[str]) -> Group:
    """The frozen group of the routers among the tensors of the layers."""
    if router != "keep":
        raise ConfigError(f"space.router={as_yaml(router)}: choose merge (like other tensors) or keep (the base's)")
    filters = tuple(text for text in COMPONENTS[ROUTER] if any(text in name for name in layered))
    if not filters:
        raise ConfigError("space.router=keep: this model has no routers; leave it out")
    return Group(ROUTER, filters, layered=True, frozen=True)


def relative_depth(index: int, layers: int) -> float:
    """Relative depth of a layer in a sequence of layers; 1 for a single layer, as in mergekit."""
    return index / (layers - 1) if layers > 1 else 1.0


def _component_filters(components: Iterable[str] | Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    if isinstance(components, Mapping):
        return {str(name): _filters(f) for name, f in components.items()}
    if not isinstance(components, Iterable) or not all(isinstance(name, str) for name in components):
        raise ConfigError(f"space.components={components}: give a list of names, or {{name: [substring, …]}}")
    unknown = [name for name in components if name not in COMPONENTS]
    if unknown:
        raise ConfigError(
            f"space.components: unknown {as_yaml(unknown)}; choose of {list(COMPONENTS)} or give name: [substring, …]"
        )
    return {name: filters for name, filters in COMPONENTS.items() if name in components}  # specific ones first


def _filters(value: object) -> tuple[str, ...]:
    filters = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not filters or not all(isinstance(text, str) for text in filters):
        raise ConfigError(f"space.components: {value!r}: give a substring of tensor names, or a list of them")
    return filters
