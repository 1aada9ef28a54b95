"""A recipe spelled out: for every output tensor, which tensors go in and with which values.

A plan knows names and numbers, no weights. Precedence of settings is source, slice, recipe (as in mergekit).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.models import Layout, layer_of, outer_kind, relative_depth, shift_layer
from evomerge.recipes import FilteredValue, ModelRef, Recipe, Scalar, SettingReader, Settings, Slice, setting_reader


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
    parts = {id(part): _Part(recipe, part, layout) for part in recipe.slices}
    return [parts[id(site.part)].tensor(site) for site in _sites(recipe, layout)]


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


class _Part:
    """Resolves names and values of one slice."""

    def __init__(self, recipe: Recipe, part: Slice, layout: Layout) -> None:
        method, scopes = methods.load(recipe.method), (part.settings, recipe.settings)
        self._model, self._start = _base_of(recipe, part), _base_start(recipe, part)
        own = next((source for source in part.sources if source.model == self._model), None)
        # A base that is not listed takes part with weight 0, unless the recipe's own level gives it one.
        weights = {key: None if own else 0.0 for key in method.BASE}
        self._base = _Resolver(self._model, weights, (own.settings if own else {}, *scopes), layout)
        self._experts = [
            (source, _Resolver(source.model, method.PER_EXPERT, (source.settings, *scopes), layout))
            for source in part.sources
            if source.model != self._model
        ]
        self._shared = _Resolver(self._model, method.SHARED, scopes, layout)

    def tensor(self, site: _Site) -> TensorPlan:
        """The inputs of one output tensor."""
        name = _name(site, self._start)
        base = Input(self._model, name, self._base.at(name, site.depth))
        experts = []
        for source, values in self._experts:
            name = _name(site, source.layers[0] if source.layers else 0)
            experts.append(Input(source.model, name, values.at(name, site.depth)))
        return TensorPlan(site.name, base, tuple(experts), self._shared.at(site.name, site.depth))


class _Resolver:
    """The values of one set of parameters, tensor by tensor; what is the same for every tensor is looked up once."""

    def __init__(
        self, owner: ModelRef, defaults: Mapping[str, Scalar | None], scopes: tuple[Settings, ...], layout: Layout
    ) -> None:
        self._owner, self._layout = owner, layout
        self._fixed: dict[str, Scalar] = {}
        self._varying: dict[str, tuple[list[SettingReader], Scalar | None]] = {}
        self._by_depth: dict[float, Mapping[str, Scalar]] | None = {}  # None where a value depends on the name
        for key, default in defaults.items():
            chain = [scope[key] for scope in scopes if key in scope]
            if any(
                isinstance(setting, tuple) and setting and isinstance(setting[0], FilteredValue) for setting in chain
            ):
                self._by_depth = None
            first = chain[0] if chain else default
            if first is None or isinstance(first, tuple):
                self._varying[key] = [setting_reader(setting) for setting in chain], default
            else:
                self._fixed[key] = first

    def at(self, name: str, depth: float) -> Mapping[str, Scalar]:
        """The values for one tensor; ConfigError where one is missing."""
        if not self._varying:
            return self._fixed
        if self._by_depth is None:
            return self._looked_up(name, depth)
        if depth not in self._by_depth:
            self._by_depth[depth] = self._looked_up(name, depth)
        return self._by_depth[depth]

    def _looked_up(self, name: str, depth: float) -> Mapping[str, Scalar]:
        values, names = dict(self._fixed), self._layout.names_of(name)
        for key, (chain, default) in self._varying.items():
            found = (read(names, depth) for read in chain)
            value = next((hit for hit in found if hit is not None), default)
            if value is None:
                raise ConfigError(
                    f"{self._owner}: parameter {key} has no value for {name}; add an entry without a filter"
                )
            values[key] = value
        return values


def _name(site: _Site, first: int) -> str:
    """An input's own name: `first` is its slice's first layer in that model."""
    if site.index is None or (place := layer_of(site.name)) is None:
        return site.name
    return shift_layer(site.name, place[0], first + site.index - place[1])
