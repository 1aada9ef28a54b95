"""A recipe's settings as matrices: model × layer, one for each gene and component."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.models import COMPONENTS, outer_kind, relative_depth
from evomerge.recipes import FilteredValue, ModelRef, Recipe, Scalar, Setting, evaluate

Row = tuple[float | None, ...]
Values = dict[str, list[tuple[Setting | None, int]]]  # owner → its setting in each slice, and that slice's layers
SHARED = "all models"


@dataclass(frozen=True)
class Block:
    """The values of one gene in one component: a row for each model, a value for each column, None where it has none.

    A column is a run of layers in which no row changes; `widths` are their numbers of layers.
    """

    gene: str
    component: str
    columns: tuple[str, ...]
    widths: tuple[int, ...]
    rows: Mapping[str, Row]


def blocks(recipe: Recipe, layers: int | None, config: Mapping[str, Any]) -> list[Block]:
    """Every gene that varies over models, layers or components; `layers` of the base, None where it is not known."""
    labels = {str(path): label for label, path in config["experts"].items()}
    filters = _filters(recipe)
    found = []
    genes = dict.fromkeys(name for name, _ in recipe.all_settings())
    for gene in sorted(genes, key=lambda name: name in recipe.settings):  # each model's own first
        values = _values(recipe, gene, layers or _longest_gradient(recipe), labels)
        if gene not in constants(recipe):
            found += _blocks_of(gene, values, filters, (config.get("space") or {}).get("components") or ())
    return found


def constants(recipe: Recipe) -> dict[str, Scalar]:
    """The settings that have one value for the whole merge."""
    found: dict[str, set[Setting]] = {}
    for name, setting in recipe.all_settings():
        found.setdefault(name, set()).add(setting)
    single = {name: next(iter(settings)) for name, settings in found.items() if len(settings) == 1}
    return {name: value for name, value in single.items() if not isinstance(value, tuple)}


def _values(recipe: Recipe, gene: str, layers: int, labels: Mapping[str, str]) -> Values:
    owners = {SHARED: gene in recipe.settings or any(gene in part.settings for part in recipe.slices)}
    for part in recipe.slices:
        for source in part.sources:
            name = _label(source.model, recipe.base, labels)
            owners[name] = owners.get(name, False) or gene in source.settings
    found: Values = {owner: [] for owner, present in owners.items() if present}
    for part in recipe.slices:
        first, last = part.sources[0].layers or (0, layers)
        settings = {_label(source.model, recipe.base, labels): source.settings for source in part.sources}
        settings[SHARED] = {**recipe.settings, **part.settings}
        for owner, spans in found.items():
            spans.append((settings.get(owner, {}).get(gene), last - first))
    return found


def _blocks_of(gene: str, values: Values, filters: Iterable[str], components: Any) -> list[Block]:
    named, outer = _components(filters, components)
    rest = "layers" if not named else "other layer tensors"
    found = []
    for component, text in [*named.items(), (rest, "")]:
        rows = {owner: _row(spans, text) for owner, spans in values.items()}
        names = [str(layer) for layer in range(len(next(iter(rows.values()))))]
        found.append(_block(gene, component, names, rows, "–"))
    outside = {
        owner: tuple(_number(evaluate(spans[0][0], (text,), 0.0)) for text in outer.values())
        for owner, spans in values.items()
        if spans[0][0] is not None
    }
    if outer and outside:
        found.append(_block(gene, "outside the layers", list(outer), outside, " + "))
    return [block for block in found if any(value is not None for row in block.rows.values() for value in row)]


def _row(spans: Iterable[tuple[Setting | None, int]], text: str) -> Row:
    """A value for each layer; the empty text stands for a tensor that no filter names."""
    found: list[float | None] = []
    for setting, layers in spans:
        depths = [relative_depth(layer, layers) for layer in range(layers)]
        found += [None if setting is None else _number(evaluate(setting, (text,), depth)) for depth in depths]
    return tuple(found)


def _block(gene: str, component: str, names: list[str], rows: Mapping[str, Row], joint: str) -> Block:
    """Join neighbouring columns that are equal in every row."""
    runs: list[list[int]] = []
    for column in range(len(names)):
        if runs and all(row[column] == row[column - 1] for row in rows.values()):
            runs[-1].append(column)
        else:
            runs.append([column])
    ends = [[names[run[0]], names[run[-1]]] if joint == "–" else [names[i] for i in run] for run in runs]
    columns = tuple(joint.join(dict.fromkeys(end)) for end in ends)
    kept = {owner: tuple(row[run[0]] for run in runs) for owner, row in rows.items()}
    return Block(gene, component, columns, tuple(len(run) for run in runs), kept)


def _components(filters: Iterable[str], components: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Component → one of its filters, and outer kind → a tensor of it, of the filters that a recipe uses."""
    own = components if isinstance(components, Mapping) else {name: COMPONENTS.get(name, ()) for name in components}
    owner = {text: name for name, texts in own.items() for text in ((texts,) if isinstance(texts, str) else texts)}
    named: dict[str, str] = {}
    outer: dict[str, str] = {}
    for text in filters:
        if text not in owner and text.endswith((".weight", ".bias")):
            outer.setdefault(outer_kind(text).replace("_", " "), text)
        else:
            named.setdefault(owner.get(text, text), text)
    return named, outer


def _filters(recipe: Recipe) -> list[str]:
    rules = (rule for _, setting in recipe.all_settings() if isinstance(setting, tuple) for rule in setting)
    return list(dict.fromkeys(rule.filter for rule in rules if isinstance(rule, FilteredValue) and rule.filter))


def _longest_gradient(recipe: Recipe) -> int:
    spans = [1]
    for _, setting in recipe.all_settings():
        if isinstance(setting, tuple):
            values = [entry.value for entry in setting if isinstance(entry, FilteredValue)]
            spans += [len(value) for value in values if isinstance(value, tuple)] if values else [len(setting)]
    return max(spans)


def _label(model: ModelRef, base: ModelRef | None, labels: Mapping[str, str]) -> str:
    """The experiment's name of a model, or the last part of its path."""
    adapter = f"{model.adapter}@{model.adapter_revision}" if model.adapter_revision else str(model.adapter)
    if model == base:
        return "base"
    return labels.get(str(model)) or labels.get(adapter) or (model.adapter or model.path).rstrip("/").rpartition("/")[2]


def _number(value: Scalar | None) -> float | None:
    return None if value is None else float(value)
