"""The parts of one search, wired from its configuration; each is made when it is first asked for."""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from evomerge import optimizers, trackers
from evomerge.audit import other_bases
from evomerge.errors import ConfigError, TaskError
from evomerge.experiment.config import ExperimentConfig, read_config
from evomerge.experiment.descent_losses import find_losses
from evomerge.experiment.generation_engine import VLLM, generation_engine, plan_serving
from evomerge.experiment.router_step import check_routers
from evomerge.experiment.rule_check import all_verdicts
from evomerge.experiment.submission_step import SubmissionStep, refuse_unpackable
from evomerge.ledger import Ledger, begun_header
from evomerge.merging import Materializer, choose_placement, digest, flow_need, freeze
from evomerge.models import (
    Family,
    check_attention,
    check_device,
    in_vocabulary_of,
    model_config,
    pin_revisions,
    refuse_lost_rows,
    resolve_device,
    resolve_expert,
)
from evomerge.paths import cache_folder
from evomerge.recipes import ModelRef, Recipe, TokenizerRequest
from evomerge.rules import Verdict, refuse_broken
from evomerge.schema import prefix_errors
from evomerge.scoring import ItemLoss, Request
from evomerge.scoring.engine import EncodedChunk, EncodedLoss, Encoder, check_tokenizer
from evomerge.scoring.tasks import LMEvalScorer
from evomerge.scoring.vllm import ServingPlan
from evomerge.screening import MergeOptions, ScreenConfig, alone_recipe, base_recipe
from evomerge.searching import Objective, SlopeEvaluator, SlopeItems
from evomerge.space import (
    CONTROL,
    FlowSpace,
    SearchSpace,
    SpaceBuilder,
    initial_points,
    items_used_by,
    load_baseline_recipe,
    mandatory_baselines,
    random_direction_recipe,
    textbook_recipe,
)
from evomerge.workers import WorkerSpec, pools

log = logging.getLogger(__name__)

EXTRA_FINALISTS = 2  # points that the search did not ask for: the optimizer's centre and the surrogate's best


class Experiment:
    """Models, space, baselines, tasks and the rest of one search; what is wrong with a part is raised as it is made.

    `folder` is the run's folder. A run that has begun keeps the slices that its ledger has.
    """

    def __init__(self, config: ExperimentConfig, folder: Path | None = None) -> None:
        self.config, self._folder, self._is_screened = config, folder, False
        self.pool_name = config.chosen("pool", "local")
        check_device(config.model.device, is_local=self.pool_name == "local")

    def check(self) -> None:
        """Make the parts of which one may be wrong; no weight is read. RulesError where a rule is broken."""
        refuse_broken(self.config.rules.name, self.verdicts)
        if unknown := sum(verdict.status == "unknown" for verdict in self.verdicts):
            log.warning("rules %s: %d verdicts are unknown; `check` shows them", self.config.rules.name, unknown)
        _ = self.space, self.scorer, self.optimizer(), self.baselines, self.item_losses
        _ = self.submission
        if self.config.finalise.calibrate_routers:
            check_routers(self)
        if self.gpu_bytes is not None:
            model = self.config.model
            limits: dict[str, Any] = {"limit": self.gpu_bytes, "more": self.more_bytes}
            choose_placement(model.placement, self.family, "cpu", model.dtype, loaded=False, **limits)

    @cached_property
    def base(self) -> ModelRef:
        """The base's reference; a hub model at the commit that is read."""
        return pin_revisions(ModelRef.parse(str(self.config.base)))

    @cached_property
    def experts(self) -> dict[str, ModelRef]:
        """Label → reference."""
        return {label: resolve_expert(path, self.base) for label, path in self.config.experts.items()}

    @property
    def needs_screening(self) -> bool:
        """Whether there are more experts than the search may merge."""
        return self.config.screen.applies_to(self.config.experts)

    def with_experts(self, labels: Collection[str]) -> "Experiment":
        """The search over these experts alone, after a screening, with the same tasks.

        The baselines of base and experts are the recipes that the screening has scored.
        """
        experts = {label: path for label, path in self.config.experts.items() if label in labels}
        found = Experiment(replace(self.config, experts=experts, screen=ScreenConfig()), self._folder)
        found.scorer, found.tokenizer, found.used_items = self.scorer, self.tokenizer, self.used_items
        found.verdicts, found._is_screened = self.verdicts, True
        return found

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdict on each rule; the GPU's memory is planned only where no other rule is broken."""
        return tuple(all_verdicts(self))

    @cached_property
    def family(self) -> Family:
        """Base and experts, opened and checked against one another."""
        model = self.config.model
        family = Family(self.base, self.experts.values(), model.trust_remote_code, self._request)
        if model.attn_implementation is not None:
            check_attention(model.attn_implementation, family.base.folder, model.trust_remote_code)
        for maker, labels in other_bases(family, self.experts).items():
            who = f"expert{'s' * (len(labels) > 1)} {', '.join(labels)}"
            log.warning("%s: trained on %s by their own files; is the base %s the same?", who, maker, self.base)
        family.log_notes()
        if self._request and isinstance(source := self._request.source, ModelRef) and family.vocabulary is None:
            raise ConfigError(
                f"tokenizer.source: {source} has the base's tokens in the same rows, and a search uses the base's "
                "files then; leave it out"
            )
        return family

    @cached_property
    def _request(self) -> TokenizerRequest | None:
        """The requested tokenizer, with all models of the search, so that every recipe has the same vocabulary."""
        request = self.config.tokenizer_request
        if request is None:
            return None
        paths = {str(path): self.experts[label] for label, path in self.config.experts.items()}
        known = {"base": self.base, str(self.config.base): self.base, **paths, **self.experts}

        def resolved(ref: ModelRef, where: str) -> ModelRef:
            if (text := str(ref)) not in known:
                raise ConfigError(f"{where}: {text} is no model of the search; give {', '.join(self.experts)} or base")
            return known[text]

        source, tokens = request.source, dict(request.tokens)
        if isinstance(source, ModelRef):
            source = resolved(source, "tokenizer.source")
        for token, rule in tokens.items():
            if rule.model:
                tokens[token] = replace(rule, model=resolved(rule.model, f"tokenizer.tokens.{token}"))
        return replace(request, source=source, tokens=tokens, models=(self.base, *self.experts.values()))

    @cached_property
    def vocabulary(self) -> dict[str, Any]:
        """The field `vocabulary` of every recipe of this search; empty where the rows stay those of the models."""
        found = self.family.vocabulary
        return found.request.plain() if found and found.request else {}

    @cached_property
    def space(self) -> SearchSpace:
        """The search space."""
        if self.config.flow:
            return self._spaces.of_flow(self.config.flow)
        return self._spaces.build(
            self.config.methods, self.config.space_settings, self.config.space.get("subset", False)
        )

    @cached_property
    def _spaces(self) -> SpaceBuilder:
        dtype, seed = self.config.model.dtype, self.config.seed
        return SpaceBuilder(self.family, self.base, self.experts, dtype, seed, self.vocabulary)

    @cached_property
    def baselines(self) -> dict[str, Recipe]:
        """Label → recipe of every row that the winner is compared with, the base first."""
        section, models = self.config.baselines, (self.base, *self.experts.values())
        found = mandatory_baselines(self.space, self.base, self.experts)
        if self._is_screened:
            made = MergeOptions(self.space.out_dtype, self.space.seed)
            found["base"] = base_recipe(self.base, made)
            found |= {label: alone_recipe(self.base, ref, made) for label, ref in self.experts.items()}
        section.refuse_taken(found)
        if section.random_direction:
            found[CONTROL] = random_direction_recipe(self.space, self.base, self.experts)
        for label, merge in self.config.textbook_merges.items():
            with prefix_errors(f"baselines.methods.{label}"):
                found[label] = textbook_recipe(self._spaces.of_method(merge), merge.genes)
        for label, path in section.recipes.items():
            with prefix_errors(f"baselines.recipes.{label}"):
                recipe = load_baseline_recipe(path, models)
                found[label] = in_vocabulary_of(recipe, self.family, self.vocabulary)
        for recipe in (*map(self.space.decode, self.space.example_points()), *found.values()):
            refuse_lost_rows(recipe, self.family)
        return {label: replace(recipe, vocabulary=self.vocabulary) for label, recipe in found.items()}

    @cached_property
    def objective(self) -> Objective:
        """What the search maximises, and the floors that it keeps."""
        labels = tuple(self.experts), tuple(self.baselines)
        plan = self.scorer.plan
        return Objective(plan.weights, *labels, plan.generating, tuple(plan.aggregates), **self.config.objective)

    @cached_property
    def scorer(self) -> LMEvalScorer:
        """The tasks, loaded and frozen."""
        return LMEvalScorer(self.config.scorer, self.tokenizer, self.config.seed, self.used_items)

    @cached_property
    def begun(self) -> Mapping[str, Any]:
        """The header of the run's ledger; empty for a new run."""
        return {} if self._folder is None else begun_header(self._folder)

    @cached_property
    def used_items(self) -> frozenset[str]:
        """The items by which the runs of `init` were chosen, as the ledger has recorded them if the run has begun."""
        return frozenset(self.begun.get("used", ()) if self.begun else items_used_by(self.config.init))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the merged models."""
        folder, trust = self.family.base.folder, self.config.model.trust_remote_code
        tokenizer = self.family.load_tokenizer()
        check_tokenizer(tokenizer, model_config(folder, trust).is_encoder_decoder)
        return tokenizer

    @cached_property
    def work(self) -> dict[str, EncodedChunk]:
        """Chunk id → its requests as token ids and batches; TaskError where a prompt does not fit the model."""
        chunks = (chunk for chunks in self.scorer.plan.chunks.values() for chunk in chunks)
        return {chunk.id: self._encoder.encode(self.scorer.requests(chunk)) for chunk in chunks}

    @property
    def tree_share(self) -> float | None:
        """The share of the prompts' tokens that token trees compute; None while the prompts are not encoded."""
        if "work" not in vars(self):  # a cached property: the display must not be the one that encodes
            return None
        return self._tree_share

    @cached_property
    def _tree_share(self) -> float | None:
        counts = [chunk.tokens for chunk in self.work.values()]
        plain = sum(all_tokens for _, all_tokens in counts)
        return sum(computed for computed, _ in counts) / plain if plain else None

    def token_rows(self, request: Request) -> list[tuple[int, ...]]:
        """The token ids that a model reads for a request; TaskError if it does not fit the model."""
        pairs = self._encoder.encode_loss(ItemLoss((request,))).pairs
        return [(*pair.context, *pair.continuation)[-self.max_length :] for pair in pairs]

    @property
    def max_length(self) -> int:
        """The number of tokens that the model's positions, or the configuration, allow."""
        return self._encoder.max_length

    @cached_property
    def _encoder(self) -> Encoder:
        model = self.config.model
        config = model_config(self.family.base.folder, model.trust_remote_code)
        return Encoder(self.tokenizer, config, max_length=model.max_length, batch_tokens=model.batch_tokens)

    @cached_property
    def item_losses(self) -> dict[str, ItemLoss]:
        """Item → its differentiable loss, for the search slice of a search that uses slopes; else empty."""
        name, settings = self.config.chosen("optimizer", "cma"), self.config.settings("optimizer")
        return find_losses(self.scorer, self.objective, self.space) if optimizers.uses_slopes(name, settings) else {}

    @cached_property
    def _encoded_losses(self) -> dict[str, EncodedLoss]:
        """Item → its loss as token ids; items that do not fit the model are counted in a warning and left out."""
        found = {}
        for item, loss in self.item_losses.items():
            with suppress(TaskError):
                found[item] = self._encoder.encode_loss(loss)
        if self.item_losses and not found:
            raise TaskError("no item fits the model with its target, so there is no descent; raise model.max_length")
        if left := len(self.item_losses) - len(found):
            log.warning("%d items do not fit the model with their targets: they are left out of the descent", left)
        return found

    def slopes(self, pool: pools.Pool, ledger: Ledger) -> SlopeEvaluator:
        """What answers the slope requests of an optimizer that descends."""
        items = SlopeItems.of(tuple(self._encoded_losses), self.objective.weights)
        return SlopeEvaluator(items, self.space, pool, ledger)

    def optimizer(self) -> optimizers.Optimizer:
        """A fresh optimizer, seeded with the points of `init` and of the space, each recipe once.

        With `init`, a descent begins at one of these points, unless its origin is set to the middle.
        """
        points = [*initial_points(self.space, self.config.init).values(), *self.space.seed_points().values()]
        seeds = list({self.space.decode(point).key(): point for point in points}.values())
        name, settings = self.config.chosen("optimizer", "cma"), self.config.settings("optimizer")
        if self.config.init and settings.get("origin") == "auto" and optimizers.uses_slopes(name, settings):
            settings["origin"] = "seeds"
        return optimizers.create(
            name,
            self.space.coordinates(),
            seeds,
            self.config.seed,
            settings,
            self.objective.loss_count,
            self.config.search.is_asynchronous,
        )

    def pool(self, spec: WorkerSpec) -> pools.Pool:
        """The pool with its workers started."""
        return pools.create(self.pool_name, spec, self.config.settings("pool"))

    def tracker(self, folder: Path, config: Mapping[str, Any]) -> trackers.Tracker:
        """The tracker of the run in `folder`, started."""
        name = self.config.chosen("tracker", trackers.NONE)
        return trackers.create(name, folder, config, self.config.settings("tracker"))

    def worker_spec(self, with_losses: bool = True) -> WorkerSpec:
        """What every worker is made from; no weight is read for it. Without losses it answers no slope requests."""
        experts, folder = tuple(self.experts.values()), str(self.prepared)
        losses = self._encoded_losses if with_losses else {}
        return WorkerSpec(
            *(self.base, experts, self.work, self.config.model, folder, losses),
            gpu_bytes=self.gpu_bytes,
            hashes=self.family.hashes(),
            tokenizer=self._request,
            flow_bytes=self.flow_bytes,
            serving=self.serving,
        )

    @cached_property
    def generation(self) -> str | None:
        """The engine that generates answers, vllm or loop; None where no task generates."""
        return generation_engine(self)

    @cached_property
    def serving(self) -> ServingPlan | None:
        """What vLLM needs, if it generates the answers."""
        return plan_serving(self) if self.generation == VLLM else None

    @property
    def more_bytes(self) -> int:
        """The memory that a worker needs beside the live model and the sources: resident layers, vLLM's engine."""
        return self.flow_bytes + (self.serving.nbytes if self.serving else 0)

    @property
    def flow_bytes(self) -> int:
        """The memory of the layers that stay resident for a flow, and of its scaled projections; 0 without a flow."""
        space = self.space
        if not isinstance(space, FlowSpace):
            return 0
        sizes = len(space.models), space.max_layers, space.outputs
        kept, scaled = flow_need(self.family, self.config.model.dtype, *sizes)
        return kept + scaled

    @cached_property
    def submission(self) -> SubmissionStep | None:
        """The step that ends a run for a contest; None for other runs."""
        if self.config.submission.pack and self.vocabulary:
            raise ConfigError("submission.pack: a pack has the base's vocabulary; set tokenizer.source=null with it")
        if self.config.submission.pack:
            refuse_unpackable(self)
        return SubmissionStep(self, self._folder or Path(self.config.name)) if self.config.submission.pack else None

    @property
    def gpu_bytes(self) -> int | None:
        """The memory of its GPU that a worker may use, where the budget limits it."""
        limit = self.config.budget.gpu_gb
        share = self.config.settings("pool").get("num_gpus") if self.pool_name == "ray" else None
        return None if limit is None else int(1e9 * limit * min(1.0, share or 1.0))

    @cached_property
    def prepared(self) -> Path:
        """The folder, named by the weights, where what methods prepare is kept for every worker and later run."""
        found = self.family.vocabulary
        return cache_folder() / digest(self.family.hashes(), *([found.plan.digest] if found else []))

    def prepare(self) -> Iterator[tuple[int, int]]:
        """Prepare what does not depend on a candidate, before workers start; yields (tensors done, tensors)."""
        here = self.pool_name == "local"
        device = resolve_device(self.config.model.device) if here else "cpu"
        materializer = Materializer(self.family, device, compiled=False, prepared=self.prepared)
        for recipe in (*map(self.space.decode, self.space.example_points()), *self.baselines.values()):
            yield from materializer.prepare(recipe)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # a worker plans with what is free

    def frozen(self, recipe: Recipe) -> Recipe:
        """The recipe as it is kept: a `frozen-linear` method as task arithmetic, which mergekit reads."""
        frozen = freeze(recipe, Materializer(self.family, compiled=False, prepared=self.prepared))
        return self.family.with_dequantisation(frozen)

    def reserve(self) -> int:
        """About how many items are scored when the search has ended: finalists and baselines, then the winner."""
        plan, section, baselines = self.scorer.plan, self.config.finalise, len(self.baselines)
        trial = section.calibrate_routers  # one candidate on both slices
        on_select = section.top + section.simplify + section.cloud + baselines + EXTRA_FINALISTS + trial
        return (
            (EXTRA_FINALISTS + trial) * len(plan.items("search"))
            + on_select * len(plan.items("select"))
            + (baselines + 1) * len(plan.items("holdout"))
        )


def from_config(config: Mapping[str, Any], folder: Path | None = None) -> Experiment:
    """The experiment of a composed configuration, for a run in `folder`; ConfigError as in `read_config`."""
    return Experiment(read_config(config), folder)
