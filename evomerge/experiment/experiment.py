"""One experiment wired from its configuration: plain objects in, checked parts out.

Constructors are the schema: a key that none of them takes is a ConfigError that names it and the nearest one.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from transformers import PreTrainedTokenizerBase

from evomerge import methods, optimizers, trackers
from evomerge.errors import ConfigError
from evomerge.experiment.sections import MethodConfig, ModelConfig, read_methods, read_textbook
from evomerge.finalise import FinaliseConfig
from evomerge.merging import Materializer, cache_folder, digest, freeze
from evomerge.models import (
    Family,
    check_attention,
    check_device,
    expert_ref,
    load_tokenizer,
    model_config,
    pinned,
    refuse_other_vocabulary,
    resolve_device,
)
from evomerge.recipes import ModelRef, Recipe
from evomerge.schema import EMPTY, Label, Location, OneOf, Seed, build, check_section, check_value, naming
from evomerge.scoring.engine import Encoder, Work, check_tokenizer
from evomerge.scoring.tasks import LMEvalScorer, read_tasks
from evomerge.searching import BudgetConfig, Objective, RaceConfig
from evomerge.space import (
    CONTROL,
    BaselinesConfig,
    ExpertSubset,
    MethodChoice,
    NestableSpace,
    ScheduleChoice,
    SearchSpace,
    Space,
    initial_points,
    load_baseline_recipe,
    mandatory_baselines,
    random_direction_recipe,
    refuse_unknown_genes,
    textbook_recipe,
)
from evomerge.workers import WorkerSpec, pools

log = logging.getLogger(__name__)

FAVOURITES = 2  # finalists that were not asked: the optimizer's centre, the model's best
SCORERS = ("lm_eval",)
SPACE_GIVEN = ("method", "base", "experts", "layout", "touched", "settings", "options", "out_dtype", "seed")
SCORER_GIVEN = ("tokenizer", "seed")


class Experiment:
    """The parts of one search, each made when it is first asked for and checked as it is made.

    `name` is the run folder's, which the command line makes.
    """

    def __init__(
        self,
        *,
        name: str = "",
        base: Location | None = None,
        experts: Mapping[Label, Location] = EMPTY,
        method: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] = "task_arithmetic",
        space: Mapping[str, Any] = EMPTY,
        optimizer: Mapping[str, Any] = EMPTY,
        scorer: Mapping[str, Any] = EMPTY,
        model: Mapping[str, Any] = EMPTY,
        pool: Mapping[str, Any] = EMPTY,
        tracker: Mapping[str, Any] = EMPTY,
        budget: Mapping[str, Any] = EMPTY,
        race: Mapping[str, Any] = EMPTY,
        finalise: Mapping[str, Any] = EMPTY,
        objective: Mapping[str, Any] = EMPTY,
        baselines: Mapping[str, Any] = EMPTY,
        init: Sequence[Location] = (),
        seed: Seed = 1,
    ) -> None:
        if not base or not experts:
            raise ConfigError("base and experts are not set; choose an experiment: +experiment=quickstart, or your own")
        self.seed = seed
        self._base, self._experts = base, dict(experts)
        self.methods = read_methods(method)
        self.model = build(ModelConfig, model, "model")
        self.budget = build(BudgetConfig, budget, "budget")
        self.race = build(RaceConfig, race, "race")
        self.finalise = build(FinaliseConfig, finalise, "finalise")
        self._space, self._subset = _without(space, "subset", False, bool, "space")
        self._scorer, self._scorer_name = _without(scorer, "name", "lm_eval", Annotated[str, OneOf(SCORERS)], "scorer")
        self._optimizer, self._optimizer_name = _without(optimizer, "name", "cma", str, "optimizer")
        self._pool, self.pool_name = _without(pool, "name", "local", str, "pool")
        self._tracker, self._tracker_name = _without(tracker, "name", "none", str, "tracker")
        self._init = tuple(init)
        check_device(self.model.device, here=self.pool_name == "local")
        self._objective = dict(objective)
        check_section(Objective, self._objective, "objective")
        self._rivals = build(BaselinesConfig, baselines, "baselines")
        self._textbook = {k: read_textbook(v, f"baselines.methods.{k}") for k, v in self._rivals.methods.items()}
        check_section(Space, self._space, "space", SPACE_GIVEN)
        check_section(LMEvalScorer, self._scorer, "scorer", SCORER_GIVEN)
        read_tasks(self._scorer["tasks"], self._scorer.get("slices", EMPTY), "scorer.tasks")
        optimizers.check(self._optimizer_name, self._optimizer)
        pools.check(self.pool_name, self._pool)
        trackers.check(self._tracker_name, self._tracker)

    @cached_property
    def base(self) -> ModelRef:
        """The base's reference, a hub model at the commit that is read."""
        return pinned(ModelRef.parse(self._base))

    @cached_property
    def experts(self) -> dict[str, ModelRef]:
        """Label → reference."""
        return {label: expert_ref(path, self.base) for label, path in self._experts.items()}

    @cached_property
    def family(self) -> Family:
        """Base and experts, opened and checked against one another."""
        family = Family(self.base, self.experts.values(), self.model.trust_remote_code)
        if (attention := self.model.attn_implementation) is not None:
            check_attention(attention, family.base.folder, self.model.trust_remote_code)
        for label, ref in self.experts.items():
            maker = family.trained_on(ref)
            if maker and Path(maker).name.lower() != Path(self.base.path).name.lower():
                log.warning(
                    "expert %s: its adapter was trained on %s; is the base %s the same?", label, maker, self.base
                )
        return family

    @cached_property
    def space(self) -> SearchSpace:
        """The search space."""
        refuse_unknown_genes(self._space.get("genes", EMPTY), [method.name for method in self.methods])
        spaces = [self._by_schedule(method) for method in self.methods]
        space = spaces[0] if len(spaces) == 1 else MethodChoice(spaces)
        return ExpertSubset(space, list(self.experts)) if self._subset else space

    def _by_schedule(self, method: MethodConfig) -> NestableSpace:
        """The space of a method, or of the schedules that a search may choose among."""
        given = self._space.get("schedule", "all")
        if not isinstance(given, list | tuple):
            return self._space_of(method, self._space)
        spaces = {str(one): self._space_of(method, {**self._space, "schedule": one}) for one in given}
        if len(spaces) < max(2, len(given)):
            raise ConfigError(f"space.schedule={list(given)}: list at least two schedules, each once")
        return ScheduleChoice(spaces)

    def _space_of(self, method: MethodConfig, section: Mapping[str, Any]) -> Space:
        given: dict[str, Any] = {
            "method": method.name,
            "base": self.base,
            "experts": self.experts,
            "layout": self.family.layout,
            "touched": [self.family.touched(ref) for ref in self.experts.values()],
            "settings": method.settings,
            "options": method.options,
            "out_dtype": self.model.dtype,
            "seed": self.seed,
        }
        settings = dict(section)
        if methods.adapters_only(methods.load(method.name)):
            self.family.refuse_full(self.experts.values(), method.name)
        known = {gene.name for gene in methods.load(method.name).GENES}
        if len(self.methods) > 1:  # each takes the genes that it has
            settings["genes"] = {key: value for key, value in settings.get("genes", EMPTY).items() if key in known}
        return Space(**given, **settings)

    @cached_property
    def baselines(self) -> dict[str, Recipe]:
        """Label → recipe of every row that the winner is compared with, the base first."""
        found = mandatory_baselines(self.space, self.base, self.experts)
        self._rivals.refuse_taken(found)
        if self._rivals.random_direction:
            found[CONTROL] = random_direction_recipe(self.space, self.base, self.experts)
        models = (self.base, *self.experts.values())
        for label, entry in self._textbook.items():
            with naming(f"baselines.methods.{label}"):
                found[label] = textbook_recipe(self._space_of(entry, {}), entry.genes)
        for label, path in self._rivals.recipes.items():
            with naming(f"baselines.recipes.{label}"):
                found[label] = load_baseline_recipe(path, models)
                refuse_other_vocabulary(found[label], self.family)
        return found

    @cached_property
    def objective(self) -> Objective:
        """What the search maximises, and what it keeps."""
        return Objective(self.scorer.plan.weights, tuple(self.experts), tuple(self.baselines), **self._objective)

    @cached_property
    def scorer(self) -> LMEvalScorer:
        """The tasks, frozen."""
        given: dict[str, Any] = {"tokenizer": self.tokenizer, "seed": self.seed}
        return LMEvalScorer(**given, **self._scorer)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer."""
        folder = self.family.base.folder
        tokenizer = load_tokenizer(folder, self.model.trust_remote_code)
        check_tokenizer(tokenizer, model_config(folder, self.model.trust_remote_code).is_encoder_decoder)
        return tokenizer

    @cached_property
    def work(self) -> dict[str, Work]:
        """Chunk id → its requests as token ids and batches; TaskError where a prompt does not fit the model."""
        model = self.model
        config = model_config(self.family.base.folder, model.trust_remote_code)
        encoder = Encoder(self.tokenizer, config, max_length=model.max_length, batch_tokens=model.batch_tokens)
        chunks = (chunk for chunks in self.scorer.plan.chunks.values() for chunk in chunks)
        return {chunk.id: encoder.work(self.scorer.requests(chunk)) for chunk in chunks}

    def optimizer(self) -> optimizers.Optimizer:
        """A fresh optimizer, seeded with the points worth knowing first."""
        name, settings = self._optimizer_name, self._optimizer
        points = [*initial_points(self.space, self._init).values(), *self.space.seed_points().values()]
        seeds = list({self.space.decode(point).key(): point for point in points}.values())
        return optimizers.create(name, self.space.coordinates(), seeds, self.seed, settings, self.objective.loss_count)

    def pool(self, spec: WorkerSpec) -> pools.Pool:
        """The pool with its workers started."""
        return pools.create(self.pool_name, spec, self._pool)

    @cached_property
    def prepared(self) -> Path:
        """The folder, named by the weights, where what methods prepare is kept for every worker and later run."""
        return cache_folder() / digest(self.family.hashes())

    def prepare(self) -> Iterator[tuple[int, int]]:
        """Prepare what does not depend on a candidate, before workers start; yields (tensors done, tensors)."""
        here = self.pool_name == "local"
        device = resolve_device(self.model.device) if here else "cpu"
        materializer = Materializer(self.family, device, compiled=False, prepared=self.prepared)
        for recipe in (*map(self.space.decode, self.space.example_points()), *self.baselines.values()):
            yield from materializer.prepare(recipe)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # a worker plans with what is free

    def frozen(self, recipe: Recipe) -> Recipe:
        """The recipe as it is kept: a `frozen-linear` method as task arithmetic, which mergekit reads."""
        return freeze(recipe, Materializer(self.family, compiled=False, prepared=self.prepared))

    def reserve(self) -> int:
        """About how many items are scored when the search has ended: finalists and baselines, then the winner."""
        plan, standing = self.scorer.plan, len(self.baselines)
        looks = self.finalise.top + self.finalise.simplify + self.finalise.cloud + standing + FAVOURITES
        return (
            FAVOURITES * len(plan.items("search"))
            + looks * len(plan.items("select"))
            + (standing + 1) * len(plan.items("holdout"))
        )

    def tracker(self, folder: Path, config: Mapping[str, Any]) -> trackers.Tracker:
        """The tracker of the run in `folder`, started."""
        return trackers.create(self._tracker_name, folder, config, self._tracker)

    def worker_spec(self) -> WorkerSpec:
        """What every worker is made from; no weight is read for it."""
        experts, folder = tuple(self.experts.values()), str(self.prepared)
        return WorkerSpec(self.base, experts, self.work, prepared=folder, **asdict(self.model))


def from_config(config: Mapping[str, Any]) -> Experiment:
    """The experiment of a composed configuration; a key that it does not have is a ConfigError."""
    check_section(Experiment, config, "")
    return Experiment(**config)


def _without(section: Mapping[str, Any], key: str, default: Any, hint: Any, where: str) -> tuple[dict[str, Any], Any]:
    """A section without one of its keys, and that key's value."""
    value = section.get(key, default)
    check_value(value, hint, f"{where}.{key}")
    return {name: given for name, given in section.items() if name != key}, value
