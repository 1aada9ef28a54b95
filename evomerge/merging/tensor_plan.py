"""The plan of a recipe: for every output tensor its input tensors and their parameter values.

A plan contains names and numbers, no weights. The settings of a source take precedence over those of its slice, and
these over those of the recipe (as in mergekit).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.models import Layout, layer_of, outer_kind, relative_depth, shift_layer
from evomerge.recipes import FilteredValue, ModelRef, Recipe, Scalar, SettingReader, Settings, Slice, setting_reader


@dataclass(frozen=True)
class InputTensor:
    """One tensor of one model, with the values of its per-model parameters."""

    model: ModelRef
    name: str
    values: Mapping[str, Scalar]


@dataclass(frozen=True)
class TensorPlan:
    """The inputs of one output tensor; `base.values` are used only by methods in which the base has a weight."""

    name: str
    base: InputTensor
    experts: tuple[InputTensor, ...]
    shared: Mapping[str, Scalar]

    @property
    def genes(self) -> methods.Genes:
        """The values of the tensor's parameters, as a method's `coefficients` takes them."""
        return methods.Genes(self.shared, tuple(expert.values for expert in self.experts), self.base.values)

    def with_genes(self, genes: methods.Genes) -> "TensorPlan":
        """The same inputs with other values."""
        experts = tuple(replace(old, values=new) for old, new in zip(self.experts, genes.experts, strict=True))
        return replace(self, base=replace(self.base, values=genes.base), experts=experts, shared=genes.shared)


@dataclass(frozen=True)
class _OutputTensor:
    """An output tensor: its slice, its relative depth and, in a recipe with slices, its layer's index in the slice."""

    name: str
    part: Slice
    depth: float
    index: int | None = None


def plan(recipe: Recipe, layout: Layout) -> list[TensorPlan]:
    """One entry per output tensor, for a base with this layout; ConfigError if a value or an input is missing."""
    slice_plans = {id(part): _SlicePlan(recipe, part, layout) for part in recipe.slices}
    found = [slice_plans[id(output.part)].tensor(output) for output in _output_tensors(recipe, layout)]
    known = frozenset(layout.names)
    for source in (source for entry in found for source in entry.experts if source.name not in known):
        raise ConfigError(f"layer_range: {source.model} has no {source.name}: that layer is of another kind")
    return found


def idle_filters(recipe: Recipe, layout: Layout) -> list[str]:
    """The filters of the recipe that match no tensor's name, so that their values have no effect."""
    rules = [entry for _, setting in recipe.all_settings() if isinstance(setting, tuple) for entry in setting]
    filters = dict.fromkeys(rule.filter for rule in rules if isinstance(rule, FilteredValue) and rule.filter)
    names = [text for name in layout.names for text in layout.names_of(name)]
    return [text for text in filters if not any(text in name for name in names)]


def output_layers(recipe: Recipe) -> int | None:
    """The number of layers of the merged model in a recipe with slices; None in a recipe with models."""
    if recipe.slices[0].sources[0].layers is None:
        return None
    return sum(_length(part) for part in recipe.slices)


def base_layers(recipe: Recipe) -> list[int]:
    """For a recipe with slices: the base's layer that corresponds to each output layer."""
    return [start + i for part in recipe.slices for start in [_base_start(recipe, part)] for i in range(_length(part))]


def _output_tensors(recipe: Recipe, layout: Layout) -> Iterator[_OutputTensor]:
    if output_layers(recipe) is None:
        yield from (_OutputTensor(name, recipe.slices[0], layout.depth(name)) for name in layout.names)
        return
    if len(layout.stacks) != 1:
        raise ConfigError(f"slices: the model has {len(layout.stacks)} layer stacks; use the models form")
    for name in layout.names:
        if layer_of(name) is None:
            yield _OutputTensor(name, recipe.slices[0 if outer_kind(name) == "embeddings" else -1], 0.0)
    yield from _layer_output_tensors(recipe, layout)


def _layer_output_tensors(recipe: Recipe, layout: Layout) -> Iterator[_OutputTensor]:
    (stack, total) = next(iter(layout.stacks.items()))
    by_layer: dict[int, list[str]] = {}
    for name in layout.names:
        if place := layer_of(name):
            by_layer.setdefault(place[1], []).append(name)
    out = 0
    for part in recipe.slices:
        start, length = _base_start(recipe, part), _length(part)
        for source in part.sources:
            first, last = source.layers or (0, 0)
            if first < 0 or last > total:
                what = f"layer_range [{first}, {last}] of {source.model}"
                raise ConfigError(f"{what}: the model has {total} layers, so give a part of [0, {total}]")
        for index in range(length):
            for name in by_layer[start + index]:
                target = shift_layer(name, stack, out - start - index)
                yield _OutputTensor(target, part, relative_depth(index, length), index)
            out += 1


def _length(part: Slice) -> int:
    lengths = {last - first for first, last in (source.layers or (0, 0) for source in part.sources)}
    if min(lengths) < 1:
        raise ConfigError("layer_range: the end must be above the start, as in [0, 8]")
    if len(lengths) != 1:
        raise ConfigError("layer_range: the sources of a slice must cover the same number of layers")
    return lengths.pop()


def _base_start(recipe: Recipe, part: Slice) -> int:
    base = _base_of(recipe, part)
    source = next((source for source in part.sources if source.model == base), part.sources[0])
    return (source.layers or (0, 0))[0]


def _base_of(recipe: Recipe, part: Slice) -> ModelRef:
    return part.base or recipe.base or part.sources[0].model


class _SlicePlan:
    """Resolves the input names and values of one slice."""

    def __init__(self, recipe: Recipe, part: Slice, layout: Layout) -> None:
        method, scopes = methods.load(recipe.method), (part.settings, recipe.settings)
        self._model, self._start = _base_of(recipe, part), _base_start(recipe, part)
        listed_base = next((source for source in part.sources if source.model == self._model), None)
        # A base that is not listed has weight 0, unless the recipe or the slice sets a weight for all models.
        weights = {key: method.PER_EXPERT.get(key) if listed_base else 0.0 for key in method.BASE}
        base_settings = listed_base.settings if listed_base else {}
        self._base = _Resolver(self._model, weights, (base_settings, *scopes), layout)
        self._experts = [
            (source, _Resolver(source.model, method.PER_EXPERT, (source.settings, *scopes), layout))
            for source in part.sources
            if source.model != self._model
        ]
        self._shared = _Resolver(self._model, method.SHARED, scopes, layout)

    def tensor(self, output: _OutputTensor) -> TensorPlan:
        """The plan of one output tensor."""
        name = _name(output, self._start)
        base = InputTensor(self._model, name, self._base.values(name, output.depth))
        experts = []
        for source, resolver in self._experts:
            name = _name(output, source.layers[0] if source.layers else 0)
            experts.append(InputTensor(source.model, name, resolver.values(name, output.depth)))
        return TensorPlan(output.name, base, tuple(experts), self._shared.values(output.name, output.depth))


class _Resolver:
    """Resolves the values of a set of parameters per tensor; values that are equal for all are resolved once."""

    def __init__(
        self, owner: ModelRef, defaults: Mapping[str, Scalar | None], scopes: tuple[Settings, ...], layout: Layout
    ) -> None:
        self._owner, self._layout = owner, layout
        self._fixed: dict[str, Scalar] = {}
        self._varying: dict[str, tuple[list[SettingReader], Scalar | None]] = {}
        self._by_depth: dict[float, Mapping[str, Scalar]] | None = {}  # cache; None if a value depends on the name
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

    def values(self, name: str, depth: float) -> Mapping[str, Scalar]:
        """The values for one tensor; ConfigError if one is missing."""
        if not self._varying:
            return self._fixed
        if self._by_depth is None:
            return self._resolve(name, depth)
        if depth not in self._by_depth:
            self._by_depth[depth] = self._resolve(name, depth)
        return self._by_depth[depth]

    def _resolve(self, name: str, depth: float) -> Mapping[str, Scalar]:
        values, names = dict(self._fixed), self._layout.names_of(name)
        for key, (chain, default) in self._varying.items():
            candidates = (read(names, depth) for read in chain)
            value = next((candidate for candidate in candidates if candidate is not None), default)
            if value is None:
                raise ConfigError(
                    f"{self._owner}: parameter {key} has no value for {name}; add an entry without a filter"
                )
            values[key] = value
        return values


def _name(output: _OutputTensor, first: int) -> str:
    """The name of an input tensor; `first` is the first layer of the slice in that model."""
    if output.index is None or (place := layer_of(output.name)) is None:
        return output.name
    return shift_layer(output.name, place[0], first + output.index - place[1])
