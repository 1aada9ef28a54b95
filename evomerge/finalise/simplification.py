"""Simplifies the winner: experts, groups and genes are removed one by one while the score on `select` holds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal

from evomerge import methods
from evomerge.finalise.resampling import ResampledDifference, Resampler
from evomerge.finalise.rows import Row
from evomerge.finalise.statistics import ConfidenceInterval, PairedScores
from evomerge.recipes import FilteredValue, ModelRef, Recipe, Scalar, Setting, Settings, Slice, Source, simplify_setting
from evomerge.scoring import task_of
from evomerge.searching import Candidate, Evaluator

DRAWS = 200  # resamples for a standard error


@dataclass(frozen=True)
class Simplification:
    """A simpler recipe that scores as well as the winner on `select`, within noise.

    `steps` are the descriptions of the steps taken, in order; if no step was possible, they are empty and the candidate
    has the winner's recipe. `tried` counts the steps that were tried alone. `row` and `interval` (the difference to the
    winner on holdout) are None until the candidate has been scored there.
    """

    candidate: Candidate
    steps: tuple[str, ...]
    tried: int
    row: Row | None = None
    interval: ConfidenceInterval | None = None


@dataclass(frozen=True)
class Step:
    """One simplification: remove an expert, reset a group to the base, share a gene across layers, or reset a gene.

    Only the field that its `kind` needs is set: the expert's model, the group's filter, or the gene.
    """

    description: str
    kind: Literal["expert", "group", "layers", "default"]
    model: ModelRef | None = None
    gene: str = ""
    filter: str = ""

    def apply(self, recipe: Recipe) -> Recipe:
        """The simplified recipe; an equal recipe if the step does not apply."""
        if self.kind == "expert":
            return _without_expert(recipe, self.model)
        if self.kind == "group":
            return _with_base_group(recipe, self.filter)
        if self.kind == "layers":
            return _map_settings(
                recipe, lambda name, setting: _mean_over_layers(setting) if name == self.gene else setting
            )
        default = next(gene.default for gene in methods.load(recipe.method).GENES if gene.name == self.gene)
        return _map_settings(recipe, lambda name, setting: default if name == self.gene else setting)


def eliminate_backward(
    evaluator: Evaluator, winner: Candidate, max_candidates: int, labels: Mapping[ModelRef, str]
) -> Simplification:
    """Simplify the winner by greedy backward elimination; at most `max_candidates` are scored on `select`.

    Half of them try each step alone. The steps that keep the score are then combined, the one with the best score
    first. A combination is accepted if its score is at most one standard error below the winner's, both on the same
    items (the one-standard-error rule of Breiman et al. 1984, §3.4.3, paired).
    """
    alone = [(step, _candidate(step, winner)) for step in applicable_steps(winner.recipe, labels)]
    alone = alone[: max_candidates // 2]
    evaluator.evaluate([candidate for _, candidate in alone], "select")
    good = [(step, candidate) for step, candidate in alone if _is_as_good(evaluator, candidate, winner)]
    good.sort(key=lambda pair: -evaluator.score(pair[1].key, "select"))
    simplest, taken = winner, list[str]()
    for step, _ in good[: max_candidates - len(alone)]:
        candidate = _candidate(step, simplest)
        evaluator.evaluate([candidate], "select")
        if candidate.key != simplest.key and _is_as_good(evaluator, candidate, winner):
            simplest = candidate
            taken.append(step.description)
    return Simplification(Candidate("simpler", simplest.recipe, simplest.key), tuple(taken), len(alone))


def applicable_steps(recipe: Recipe, labels: Mapping[ModelRef, str]) -> Iterator[Step]:
    """Every step that changes the recipe; the kinds alternate, so that a small budget tries some of each."""
    sources = recipe.slices[0].sources
    genes = [gene.name for gene in methods.load(recipe.method).GENES]
    experts = [
        Step(f"without {labels.get(source.model, str(source.model))}", "expert", model=source.model)
        for source in sources
        if source.model != recipe.base
    ]
    groups = [Step(f"{text} as in the base", "group", filter=text) for text in _filters(recipe)]
    layers = [Step(f"one {gene} for all layers", "layers", gene=gene) for gene in genes]
    defaults = [Step(f"{gene} at its default", "default", gene=gene) for gene in genes if gene != "weight"]
    key = recipe.key()
    kinds = ([step for step in kind if step.apply(recipe).key() != key] for kind in (experts, groups, layers, defaults))
    return (step for turn in zip_longest(*kinds) for step in turn if step is not None)


def _candidate(step: Step, candidate: Candidate) -> Candidate:
    return Candidate.of(f"{candidate.label}, {step.description}", step.apply(candidate.recipe))


def _is_as_good(evaluator: Evaluator, candidate: Candidate, winner: Candidate) -> bool:
    """Whether a candidate scores as well as the winner within noise and does not violate the floors more."""
    if not evaluator.item_scores(candidate.key, "select"):
        return False
    violation, winner_violation = (evaluator.fitness(c.key, "select").violation for c in (candidate, winner))
    paired = _paired(evaluator, candidate.key, winner.key)
    return violation <= winner_violation and paired.difference >= -paired.standard_error


def _paired(evaluator: Evaluator, first: str, second: str) -> PairedScores | ResampledDifference:
    """The difference of two candidates on `select`, with its standard error."""
    if evaluator.objective.corpus_level:
        resampler = Resampler(evaluator, "select", seed=0, draws=DRAWS)
        return ResampledDifference.of([resampler.of(first)], resampler.of(second))
    scores, other_scores = (evaluator.objective_items(key, "select") for key in (first, second))
    return PairedScores.of(scores, other_scores, evaluator.objective.weights, task_of)


def _without_expert(recipe: Recipe, model: ModelRef | None) -> Recipe:
    """The recipe without an expert, if the method allows one fewer.

    An expert with a weight gets weight 0 and stays listed, so that the prepared tensors remain valid; another is
    removed from the list.
    """
    method = methods.load(recipe.method)
    part = recipe.slices[0]
    active = [i for i, source in enumerate(part.sources) if source.settings.get("weight") != 0.0]
    place = next((i for i in active if part.sources[i].model == model), None)
    if place is None or len(active) <= method.EXPERTS[0] or len(recipe.slices) > 1:
        return recipe
    replacement: tuple[Source, ...] = ()
    if "weight" in method.PER_EXPERT and recipe.options.get("sign") != "unweighted":
        source = part.sources[place]
        replacement = (replace(source, settings={**source.settings, "weight": 0.0}),)
    elif methods.banks_depend_on_experts(method):
        return recipe
    sources = part.sources[:place] + replacement + part.sources[place + 1 :]
    return replace(recipe, slices=(replace(part, sources=sources),))


def _with_base_group(recipe: Recipe, text: str) -> Recipe:
    """The recipe with the base's values for the tensors of one filter, if the method's genes can express this."""
    method = methods.load(recipe.method)
    neutral = {gene.name: gene.base for gene in method.GENES if gene.base is not None}
    if not neutral or "weight" in method.BASE or methods.normalizes(method, recipe.settings):
        return recipe

    def change(name: str, setting: Setting) -> Setting:
        if name not in neutral or not isinstance(setting, tuple):
            return setting
        rules = tuple(
            FilteredValue(rule.filter, neutral[name] if rule.filter == text else rule.value)
            for rule in _filtered_values(setting)
        )
        return simplify_setting(rules) if rules else setting

    return _map_settings(recipe, change)


def _mean_over_layers(setting: Setting) -> Setting:
    """The setting with each gradient replaced by its mean; filters are kept."""
    if not isinstance(setting, tuple):
        return setting
    rules = _filtered_values(setting)
    if not rules:
        return _mean(tuple(value for value in setting if not isinstance(value, FilteredValue)))
    means = (FilteredValue(r.filter, _mean(r.value) if isinstance(r.value, tuple) else r.value) for r in rules)
    return simplify_setting(tuple(means))


def _mean(values: tuple[Scalar, ...]) -> Scalar:
    return values[0] if isinstance(values[0], bool) else round(sum(values) / len(values), methods.DECIMALS)


def _map_settings(recipe: Recipe, change: Callable[[str, Setting], Setting]) -> Recipe:
    """The recipe with every setting replaced by `change(name, setting)`: of sources, of slices and global."""

    def changed(settings: Settings) -> dict[str, Setting]:
        return {name: change(name, setting) for name, setting in settings.items()}

    def changed_slice(part: Slice) -> Slice:
        sources = tuple(replace(source, settings=changed(source.settings)) for source in part.sources)
        return replace(part, sources=sources, settings=changed(part.settings))

    return replace(recipe, slices=tuple(map(changed_slice, recipe.slices)), settings=changed(recipe.settings))


def _filtered_values(setting: tuple[Scalar, ...] | tuple[FilteredValue, ...]) -> tuple[FilteredValue, ...]:
    return tuple(entry for entry in setting if isinstance(entry, FilteredValue))


def _filters(recipe: Recipe) -> list[str]:
    """The filters of a recipe's settings, each once, without the empty one."""
    settings = (setting for _, setting in recipe.all_settings() if isinstance(setting, tuple))
    return list(dict.fromkeys(rule.filter for setting in settings for rule in _filtered_values(setting) if rule.filter))
