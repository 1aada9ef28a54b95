"""A recipe's settings as matrices: model × layer, one for each gene and component."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.models import COMPONENTS, outer_kind, relative_depth
from evomerge.recipes import FilteredValue, ModelRef, Recipe, Scalar, Setting, evaluate

Row = tuple[float | None, ...]
SliceSettings = list[tuple[Setting | None, int]]  # of one model: its setting in each slice, and that slice's layers
SHARED = "all models"  # the row of a gene that has no value per model
OUTSIDE = "outside the layers"  # the component of embeddings, final norm and head


@dataclass(frozen=True)
class Block:
    """The values of one gene in one component: a row for each model, None where the model has no value.

    A column is a run of layers in which every row is constant; `widths` are their numbers of layers.
    """

    gene: str
    component: str
    columns: tuple[str, ...]
    widths: tuple[int, ...]
    rows: Mapping[str, Row]


def coefficient_blocks(recipe: Recipe, layers: int | None, config: Mapping[str, Any]) -> list[Block]:
    """The blocks of every gene that varies over models, layers or components.

    `layers` is the number of layers of the base, or None if it is unknown; `config` is the run's configuration.
    """
    labels = {str(path): label for label, path in config["experts"].items()}
    components = (config.get("space") or {}).get("components") or ()
    constants, filters = constant_settings(recipe), _filters(recipe)
    blocks = []
    genes = dict.fromkeys(name for name, _ in recipe.all_settings())
    for gene in sorted(genes, key=lambda name: name in recipe.settings):  # genes with a value per model come first
        if gene not in constants:
            settings = _settings_by_model(recipe, gene, layers or _longest_gradient(recipe), labels)
            blocks += _gene_blocks(gene, settings, filters, components)
    return blocks


def constant_settings(recipe: Recipe) -> dict[str, Scalar]:
    """The settings that have one value for the whole merge."""
    values: dict[str, set[Setting]] = {}
    for name, setting in recipe.all_settings():
        values.setdefault(name, set()).add(setting)
    single = {name: next(iter(settings)) for name, settings in values.items() if len(settings) == 1}
    return {name: value for name, value in single.items() if not isinstance(value, tuple)}


def _settings_by_model(recipe: Recipe, gene: str, layers: int, labels: Mapping[str, str]) -> dict[str, SliceSettings]:
    """Label of a model → its settings of a gene; SHARED → the settings of slices and recipe."""
    has_gene = {SHARED: gene in recipe.settings or any(gene in part.settings for part in recipe.slices)}
    for part in recipe.slices:
        for source in part.sources:
            label = _label(source.model, recipe.base, labels)
            has_gene[label] = has_gene.get(label, False) or gene in source.settings
    by_model: dict[str, SliceSettings] = {label: [] for label, present in has_gene.items() if present}
    for part in recipe.slices:
        first, last = part.sources[0].layers or (0, layers)
        settings = {_label(source.model, recipe.base, labels): source.settings for source in part.sources}
        settings[SHARED] = {**recipe.settings, **part.settings}
        for label, slice_settings in by_model.items():
            slice_settings.append((settings.get(label, {}).get(gene), last - first))
    return by_model


def _gene_blocks(
    gene: str, settings: Mapping[str, SliceSettings], filters: Iterable[str], components: Any
) -> list[Block]:
    """The blocks of one gene that have a value: a block per component, one for other layer tensors, one outside."""
    named, outer = _components(filters, components)
    others = "layers" if not named else "other layer tensors"
    blocks = []
    for component, text in [*named.items(), (others, "")]:
        rows = {label: _row(slice_settings, text) for label, slice_settings in settings.items()}
        names = [str(layer) for layer in range(len(next(iter(rows.values()))))]
        blocks.append(_block(gene, component, names, rows))
    outside = {
        label: tuple(_number(evaluate(slice_settings[0][0], (text,), 0.0)) for text in outer.values())
        for label, slice_settings in settings.items()
        if slice_settings[0][0] is not None
    }
    if outer and outside:
        blocks.append(_block(gene, OUTSIDE, list(outer), outside))
    return [block for block in blocks if any(value is not None for row in block.rows.values() for value in row)]


def _row(slice_settings: SliceSettings, text: str) -> Row:
    """A value for each layer of a tensor that matches the filter `text`; the empty text matches no filter."""
    values: list[float | None] = []
    for setting, layers in slice_settings:
        depths = [relative_depth(layer, layers) for layer in range(layers)]
        values += [None if setting is None else _number(evaluate(setting, (text,), depth)) for depth in depths]
    return tuple(values)


def _block(gene: str, component: str, names: Sequence[str], rows: Mapping[str, Row]) -> Block:
    """The block with adjacent columns joined where they are equal in every row.

    The name of a joined column is a range of layers, or, outside the layers, the list of its names.
    """
    runs: list[list[int]] = []
    for column in range(len(names)):
        if runs and all(row[column] == row[column - 1] for row in rows.values()):
            runs[-1].append(column)
        else:
            runs.append([column])
    if component == OUTSIDE:
        columns = tuple(" + ".join(names[i] for i in run) for run in runs)
    else:
        columns = tuple("–".join(dict.fromkeys((names[run[0]], names[run[-1]]))) for run in runs)
    joined = {label: tuple(row[run[0]] for run in runs) for label, row in rows.items()}
    return Block(gene, component, columns, tuple(len(run) for run in runs), joined)


def _components(filters: Iterable[str], components: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Of a recipe's filters: component → one of its filters, and kind of an outer tensor → its filter.

    `components` is the configuration's list of names, or its mapping of names to filters.
    """
    known = components if isinstance(components, Mapping) else {name: COMPONENTS.get(name, ()) for name in components}
    owner = {text: name for name, texts in known.items() for text in ((texts,) if isinstance(texts, str) else texts)}
    named: dict[str, str] = {}
    outer: dict[str, str] = {}
    for text in filters:
        if text not in owner and text.endswith((".weight", ".bias")):
            outer.setdefault(outer_kind(text).replace("_", " "), text)
        else:
            named.setdefault(owner.get(text, text), text)
    return named, outer


def _filters(recipe: Recipe) -> list[str]:
    """The filters of a recipe's settings, each once, without the empty one."""
    rules = (rule for _, setting in recipe.all_settings() if isinstance(setting, tuple) for rule in setting)
    return list(dict.fromkeys(rule.filter for rule in rules if isinstance(rule, FilteredValue) and rule.filter))


def _longest_gradient(recipe: Recipe) -> int:
    """The number of values of the recipe's longest gradient, a lower bound of the number of layers."""
    lengths = [1]
    for _, setting in recipe.all_settings():
        if isinstance(setting, tuple):
            values = [entry.value for entry in setting if isinstance(entry, FilteredValue)]
            lengths += [len(value) for value in values if isinstance(value, tuple)] if values else [len(setting)]
    return max(lengths)


def _label(model: ModelRef, base: ModelRef | None, labels: Mapping[str, str]) -> str:
    """The label of a model in the configuration, or the last part of its path."""
    adapter = f"{model.adapter}@{model.adapter_revision}" if model.adapter_revision else str(model.adapter)
    if model == base:
        return "base"
    return labels.get(str(model)) or labels.get(adapter) or (model.adapter or model.path).rstrip("/").rpartition("/")[2]


def _number(value: Scalar | None) -> float | None:
    return None if value is None else float(value)
