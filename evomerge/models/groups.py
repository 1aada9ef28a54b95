"""Where a tensor sits: its stack, its layer, its component, for every architecture family.

Only names are read. A stack is a run of numbered layers (`model.layers`, `transformer.h`, `encoder.block`);
tensors outside every stack are embeddings, final norms and heads, the outer tensors.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from evomerge.errors import ConfigError
from evomerge.schema import shown

LAYER = re.compile(r"^((?:.*?\.)?(?:layers|layer|blocks|block|h))\.(\d+)\.")
OUTER = {
    "head": re.compile(r"lm_head|embed_out|output"),  # before the embeddings, whose pattern is part of `embed_out`
    "embeddings": re.compile(r"embed|wte|wpe|shared"),
    "final_norm": re.compile(r"norm|ln_f"),
}
# Substrings, not patterns, because a recipe's filters are substrings. The dots keep `post_attention_layernorm`
# out of attention; more specific components come first.
COMPONENTS: dict[str, tuple[str, ...]] = {
    "cross_attention": ("EncDecAttention.", "encoder_attn.", "crossattention."),
    "norms": ("norm", "ln_1.", "ln_2."),
    "attention": ("self_attn.", "SelfAttention.", "EncDecAttention.", "attention.", "attn."),
    "mlp": ("mlp.", "DenseReluDense.", "feed_forward.", "fc1.", "fc2."),
    "encoder": ("encoder.",),
    "decoder": ("decoder.",),
}


@dataclass(frozen=True)
class Group:
    """Tensors that share coefficients at one depth: those whose name contains one of `filters`.

    A frozen group has no coefficients: its tensors stay the base's.
    """

    name: str
    filters: tuple[str | None, ...]
    layered: bool
    frozen: bool = False


@lru_cache(maxsize=1 << 16)
def layer_of(name: str) -> tuple[str, int] | None:
    """The stack and layer number of a tensor, or None for an outer tensor."""
    found = LAYER.match(name)
    return (found[1], int(found[2])) if found else None


def shift_layer(name: str, stack: str, offset: int) -> str:
    """The name of the same tensor `offset` layers deeper in its stack."""
    found = LAYER.match(name)
    if not found or found[1] != stack:
        return name
    return f"{stack}.{int(found[2]) + offset}.{name[found.end() :]}"


def outer_kind(name: str) -> str:
    """Which outer group a tensor outside every stack belongs to."""
    return next((kind for kind, pattern in OUTER.items() if pattern.search(name)), "other")


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
        """The tensor's name in the base's files and, where it differs, in the model (`h.0.…`, `transformer.h.0.…`)."""
        parameter = self._parameters.get(name, name)
        return (name,) if parameter == name else (name, parameter)

    @property
    def layers(self) -> int:
        """Layers of the deepest stack."""
        return max(self.stacks.values(), default=0)

    def depth(self, name: str) -> float:
        """Relative depth 0 … 1 in the tensor's stack; outer tensors are at 0, a lone layer at 1 (as in mergekit)."""
        place = layer_of(name)
        return relative_depth(place[1], self.stacks[place[0]]) if place else 0.0

    def outer(self) -> dict[str, tuple[str, ...]]:
        """Outer group → its tensor names."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            if layer_of(name) is None:
                found.setdefault(outer_kind(name), []).append(name)
        return {kind: tuple(names) for kind, names in found.items()}

    def groups(self, components: str | Iterable[str] | Mapping[str, Iterable[str]], outer: str) -> tuple[Group, ...]:
        """Outer groups first, then the components in order, then the rest; a tensor belongs to the first match."""
        layered = [name for name in self.names if layer_of(name)]
        found = list(self._outer_groups(outer))
        for component, filters in _named([components] if isinstance(components, str) else components).items():
            hits: list[str] = []
            for text in filters:
                if any(text in name for name in layered):
                    hits.append(text)
                layered = [name for name in layered if text not in name]
            if not hits:
                raise ConfigError(f"space.components: no tensor's name contains any of {list(filters)} ({component})")
            found.append(Group(component, tuple(hits), layered=True))
        if layered:
            found.append(Group("rest" if components else "layers", (None,), layered=True))
        return tuple(found)

    def _outer_groups(self, outer: str) -> Iterable[Group]:
        kinds = self.outer()
        if outer not in ("joint", "each", "base"):
            raise ConfigError(
                f"space.outer={shown(outer)}: choose joint (one group), each (a group a kind) or base (not merged)"
            )
        for name in (name for names in kinds.values() for name in names):
            if any(name in other for other in self.names if layer_of(other)):
                raise ConfigError(f"{name}: its name is part of a layer's; save the base with its language-model head")
        if outer == "each":
            yield from (Group(kind, names, layered=False) for kind, names in kinds.items())
        elif kinds:
            names = tuple(name for kind in kinds.values() for name in kind)
            yield Group("outer", names, layered=False, frozen=outer == "base")


def relative_depth(index: int, layers: int) -> float:
    """Depth of a layer in its run; 1 for a run of one layer, as mergekit has it."""
    return index / (layers - 1) if layers > 1 else 1.0


def _named(components: Iterable[str] | Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    if isinstance(components, Mapping):
        return {str(name): _filters(f) for name, f in components.items()}
    if not isinstance(components, Iterable) or not all(isinstance(name, str) for name in components):
        raise ConfigError(f"space.components={components}: give a list of names, or {{name: [substring, …]}}")
    unknown = [name for name in components if name not in COMPONENTS]
    if unknown:
        raise ConfigError(
            f"space.components: unknown {shown(unknown)}; choose of {list(COMPONENTS)} or give name: [substring, …]"
        )
    return {name: filters for name, filters in COMPONENTS.items() if name in components}  # specific ones first


def _filters(given: object) -> tuple[str, ...]:
    filters = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list | tuple) else ()
    if not filters or not all(isinstance(text, str) for text in filters):
        raise ConfigError(f"space.components: {given!r}: give a substring of tensor names, or a list of them")
    return filters
