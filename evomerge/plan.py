"""A recipe spelled out: for every output tensor, which tensors go in and with which values.

A plan knows names and numbers, no weights. Precedence of settings is source, slice, recipe (as in mergekit).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.groups import Layout, layer_of, outer_kind, relative_depth, shift_layer
from evomerge.recipe import ModelRef, Recipe, Scalar, Settings, Slice, Source, evaluate


@dataclass(frozen=True)
class Input:
    """One tensor of one model, with the values its method asks for."""

    model: ModelRef
    name: str
    values: Mapping[str, Scalar]


@dataclass(frozen=True)
class TensorPlan:
    """How one output tensor is made; `base.values` count only for methods that weigh the base too."""

    name: str
    base: Input
    experts: tuple[Input, ...]
    shared: Mapping[str, Scalar]


@dataclass(frozen=True)
class _Site:
    """An output tensor: its slice, its relative depth, and in the slices form its layer's place in the slice."""

    name: str
    part: Slice
    depth: float
    index: int | None = None


def plan(recipe: Recipe, layout: Layout) -> list[TensorPlan]:
    """One entry per output tensor, for a base of this layout; raises ConfigError where a value is missing."""
    planner = _Planner(recipe, layout)
    return [planner.tensor(site) for site in _sites(recipe, layout)]


def output_layers(recipe: Recipe) -> int | None:
    """Layers of the merged model where the slices form sets them, None for the models form."""
    if recipe.slices[0].sources[0].layers is None:
        return None
    return sum(_length(part) for part in recipe.slices)


def base_layers(recipe: Recipe) -> list[int]:
    """For the slices form: the base's layer that each output layer has its place from."""
    return [start + i for part in recipe.slices for start in [_base_start(recipe, part)] for i in range(_length(part))]


def _sites(recipe: Recipe, layout: Layout) -> Iterator[_Site]:
    if output_layers(recipe) is None:
        yield from (_Site(name, recipe.slices[0], layout.depth(name)) for name in layout.names)
        return
    if len(layout.stacks) != 1:
        raise ConfigError(f"slices: the model has {len(layout.stacks)} layer stacks; use the models form")
    for name in layout.names:
        if layer_of(name) is None:
            yield _Site(name, recipe.slices[0 if outer_kind(name) == "embeddings" else -1], 0.0)
    yield from _layer_sites(recipe, layout)


def _layer_sites(recipe: Recipe, layout: Layout) -> Iterator[_Site]:
    (stack, total) = next(iter(layout.stacks.items()))
    by_layer: dict[int, list[str]] = {}
    for name in layout.names:
        if place := layer_of(name):
            by_layer.setdefault(place[1], []).append(name)
    out = 0
    for part in recipe.slices:
        start, length = _base_start(recipe, part), _length(part)
        for first, last in (source.layers or (0, 0) for source in part.sources):
            if first < 0 or last > total:
                raise ConfigError(f"layer_range [{first}, {last}]: the model has layers 0 to {total - 1}")
        for index in range(length):
            for name in by_layer[start + index]:
                target = shift_layer(name, stack, out - start - index)
                yield _Site(target, part, relative_depth(index, length), index)
            out += 1


def _length(part: Slice) -> int:
    lengths = {last - first for first, last in (source.layers or (0, 0) for source in part.sources)}
    if len(lengths) != 1 or min(lengths) < 1:
        raise ConfigError("layer_range: the sources of a slice must cover the same, non-zero number of layers")
    return lengths.pop()


def _base_start(recipe: Recipe, part: Slice) -> int:
    base = _base_of(recipe, part)
    source = next((source for source in part.sources if source.model == base), part.sources[0])
    return (source.layers or (0, 0))[0]


def _base_of(recipe: Recipe, part: Slice) -> ModelRef:
    return part.base or recipe.base or part.sources[0].model


class _Planner:
    """Resolves names and values of one recipe over one layout."""

    def __init__(self, recipe: Recipe, layout: Layout) -> None:
        self._recipe, self._layout = recipe, layout
        self._method = methods.load(recipe.method)

    def tensor(self, site: _Site) -> TensorPlan:
        model = _base_of(self._recipe, site.part)
        own = next((source for source in site.part.sources if source.model == model), None)
        scopes = (site.part.settings, self._recipe.settings)
        # A base that is not listed takes part with weight 0, unless the recipe's own level gives it one.
        defaults = {key: None if own else 0.0 for key in self._method.BASE}
        name = _name(site, _base_start(self._recipe, site.part))
        values = self._values(defaults, (own.settings if own else {}, *scopes), site, name, model)
        experts = tuple(self._expert(source, site, scopes) for source in site.part.sources if source.model != model)
        shared = self._values(self._method.SHARED, scopes, site, site.name, model)
        return TensorPlan(site.name, Input(model, name, values), experts, shared)

    def _expert(self, source: Source, site: _Site, scopes: tuple[Settings, ...]) -> Input:
        name = _name(site, source.layers[0] if source.layers else 0)
        values = self._values(self._method.PER_EXPERT, (source.settings, *scopes), site, name, source.model)
        return Input(source.model, name, values)

    def _values(
        self,
        defaults: Mapping[str, Scalar | None],
        scopes: tuple[Settings, ...],
        site: _Site,
        name: str,
        owner: ModelRef,
    ) -> dict[str, Scalar]:
        names, values = self._layout.spellings(name), {}
        for key, default in defaults.items():
            found = (evaluate(scope[key], names, site.depth) for scope in scopes if key in scope)
            value = next((hit for hit in found if hit is not None), default)
            if value is None:
                raise ConfigError(f"{owner}: parameter {key} has no value for {name}; add an entry without a filter")
            values[key] = value
        return values


def _name(site: _Site, first: int) -> str:
    """An input's own name: `first` is its slice's first layer in that model."""
    place = layer_of(site.name)
    if site.index is None or place is None:
        return site.name
    return shift_layer(site.name, place[0], first + site.index - place[1])
