"""What of a winner can go without a loss: experts, groups and genes, taken away one by one on `select`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal

from evomerge import methods
from evomerge.finalise.statistics import PairedScores
from evomerge.recipes import FilteredValue, ModelRef, Recipe, Scalar, Setting, Settings, Slice, Source, simplify_setting
from evomerge.scoring import task_of
from evomerge.searching import Candidate, Evaluator

Change = Callable[[str, Setting], Setting]


@dataclass(frozen=True)
class Simpler:
    """A recipe that says less and scores alike on `select`, with what was taken away, in order."""

    candidate: Candidate
    steps: tuple[str, ...]  # empty where everything matters: the candidate is then the winner
    tried: int


@dataclass(frozen=True)
class Step:
    """One simplification of any recipe of a method: `kind` of what, by its model, gene or filter."""

    words: str
    kind: Literal["expert", "group", "layers", "default"]
    model: ModelRef | None = None
    gene: str = ""
    filter: str = ""

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe with less; the same where there is nothing to take away."""
        if self.kind == "expert":
            return _without(recipe, self.model)
        if self.kind == "group":
            return _as_base(recipe, self.filter)
        if self.kind == "layers":
            return _changed(recipe, lambda name, setting: _one_value(setting) if name == self.gene else setting)
        default = next(gene.default for gene in methods.load(recipe.method).GENES if gene.name == self.gene)
        return _changed(recipe, lambda name, setting: default if name == self.gene else setting)


def backward(evaluator: Evaluator, winner: Candidate, most: int, labels: Mapping[ModelRef, str]) -> Simpler:
    """Take away whatever costs no more than noise, the cheapest first.

    Greedy backward elimination with at most `most` candidates scored on `select`: half of them try each step alone.
    A step stays where the score is within one standard error of the winner's, both on the same items (the
    one-standard-error rule of Breiman et al. 1984, §3.4.3, paired).
    """
    tried = [(step, _candidate(step, winner)) for step in steps(winner.recipe, labels)][: most // 2]
    evaluator.evaluate([candidate for _, candidate in tried], "select")
    good = [(step, candidate) for step, candidate in tried if _alike(evaluator, candidate, winner)]
    good.sort(key=lambda pair: -evaluator.score(pair[1].key, "select"))
    present, taken = winner, list[str]()
    for step, _ in good[: most - len(tried)]:
        candidate = _candidate(step, present)
        evaluator.evaluate([candidate], "select")
        if candidate.key != present.key and _alike(evaluator, candidate, winner):
            present = candidate
            taken.append(step.words)
    return Simpler(Candidate("simpler", present.recipe, present.key), tuple(taken), len(tried))


def steps(recipe: Recipe, labels: Mapping[ModelRef, str]) -> Iterator[Step]:
    """Every step that changes a recipe: an expert, a group, a schedule and a gene in turn, as few may be tried."""
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
    kinds = ([step for step in kind if step.of(recipe).key() != key] for kind in (experts, groups, layers, defaults))
    return (step for turn in zip_longest(*kinds) for step in turn if step is not None)


def _candidate(step: Step, candidate: Candidate) -> Candidate:
    return Candidate.of(f"{candidate.label}, {step.words}", step.of(candidate.recipe))


def _alike(evaluator: Evaluator, candidate: Candidate, winner: Candidate) -> bool:
    """Whether a candidate is as good as the winner within noise, and breaks no floor that the winner keeps."""
    own, best = (evaluator.objective_items(c.key, "select") for c in (candidate, winner))
    if not own:
        return False
    breach = [evaluator.fitness(c.key, "select").violation for c in (candidate, winner)]
    paired = PairedScores.of(own, best, evaluator.objective.weights, task_of)
    return breach[0] <= breach[1] and paired.difference >= -paired.standard_error


def _without(recipe: Recipe, model: ModelRef | None) -> Recipe:
    """One expert less: with weight 0 where it has one, so that what was prepared still serves, else not listed."""
    method = methods.load(recipe.method)
    part = recipe.slices[0]
    taking_part = [i for i, source in enumerate(part.sources) if source.settings.get("weight") != 0.0]
    place = next((i for i in taking_part if part.sources[i].model == model), None)
    if place is None or len(taking_part) <= method.EXPERTS[0] or len(recipe.slices) > 1:
        return recipe
    if "weight" in method.PER_EXPERT and recipe.options.get("sign") != "unweighted":
        source = part.sources[place]
        own: tuple[Source, ...] = (replace(source, settings={**source.settings, "weight": 0.0}),)
    elif methods.banks_depend_on_experts(method):
        return recipe
    else:
        own = ()
    return replace(recipe, slices=(replace(part, sources=part.sources[:place] + own + part.sources[place + 1 :]),))


def _as_base(recipe: Recipe, text: str) -> Recipe:
    """The tensors that a filter names as the base has them, by the genes that decide it."""
    method = methods.load(recipe.method)
    neutral = {gene.name: gene.base for gene in method.GENES if gene.base is not None}
    if not neutral or "weight" in method.BASE or methods.normalizes(method, recipe.settings):
        return recipe

    def change(name: str, setting: Setting) -> Setting:
        if name not in neutral or not isinstance(setting, tuple):
            return setting
        rules = tuple(FilteredValue(r.filter, neutral[name] if r.filter == text else r.value) for r in _rules(setting))
        return simplify_setting(rules) if rules else setting

    return _changed(recipe, change)


def _one_value(setting: Setting) -> Setting:
    """Gradients as their mean, the rules as they are."""
    if not isinstance(setting, tuple):
        return setting
    rules = _rules(setting)
    if not rules:
        return _mean(tuple(value for value in setting if not isinstance(value, FilteredValue)))
    means = (FilteredValue(r.filter, _mean(r.value) if isinstance(r.value, tuple) else r.value) for r in rules)
    return simplify_setting(tuple(means))


def _mean(values: tuple[Scalar, ...]) -> Scalar:
    return values[0] if isinstance(values[0], bool) else round(sum(values) / len(values), methods.DECIMALS)


def _changed(recipe: Recipe, change: Change) -> Recipe:
    """The recipe with every setting changed, at every level."""

    def settings(held: Settings) -> dict[str, Setting]:
        return {name: change(name, setting) for name, setting in held.items()}

    def part(held: Slice) -> Slice:
        sources = tuple(replace(source, settings=settings(source.settings)) for source in held.sources)
        return replace(held, sources=sources, settings=settings(held.settings))

    return replace(recipe, slices=tuple(map(part, recipe.slices)), settings=settings(recipe.settings))


def _rules(setting: tuple[Scalar, ...] | tuple[FilteredValue, ...]) -> tuple[FilteredValue, ...]:
    return tuple(entry for entry in setting if isinstance(entry, FilteredValue))


def _filters(recipe: Recipe) -> list[str]:
    settings = (setting for _, setting in recipe.all_settings() if isinstance(setting, tuple))
    return list(dict.fromkeys(rule.filter for setting in settings for rule in _rules(setting) if rule.filter))
