"""The search space of an experiment: one method or several, one schedule or several, all experts or subsets of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.models import Family, output_filters
from evomerge.recipes import ModelRef
from evomerge.schema import EMPTY
from evomerge.space.categorical import ExpertSubset, MethodChoice, NestableSpace, ScheduleChoice
from evomerge.space.flow import FlowSpace
from evomerge.space.flow_config import BASE, FlowConfig
from evomerge.space.genes import refuse_unknown_genes
from evomerge.space.method_config import MethodConfig
from evomerge.space.search_space import SearchSpace
from evomerge.space.space import Space


@dataclass(frozen=True)
class SpaceBuilder:
    """Builds search spaces over one family of models; `experts` maps labels to references.

    `vocabulary` is that field of every recipe.
    """

    family: Family
    base: ModelRef
    experts: Mapping[str, ModelRef]
    out_dtype: str
    seed: int
    vocabulary: Mapping[str, Any] = field(default_factory=dict)

    def build(self, choices: Sequence[MethodConfig], settings: Mapping[str, Any], subset: bool) -> SearchSpace:
        """The space of an experiment's `method` and `space` sections; ConfigError names the key that is wrong."""
        refuse_unknown_genes(settings.get("genes", EMPTY), [method.name for method in choices])
        spaces = [self._by_schedule(method, settings, len(choices) > 1) for method in choices]
        space = spaces[0] if len(spaces) == 1 else MethodChoice(spaces)
        return ExpertSubset(space, list(self.experts)) if subset else space

    def of_flow(self, flow: FlowConfig) -> FlowSpace:
        """The space of a flow over the layers of base and experts; ConfigError for models without one layer stack."""
        stacks = self.family.layout.stacks
        if len(stacks) != 1:
            raise ConfigError(
                f"space.flow: the model has {len(stacks)} layer stacks ({', '.join(stacks)}); a flow orders one stack"
            )
        known = {BASE: self.base, **self.experts}
        return FlowSpace(
            flow,
            {label: known[label] for label in flow.models or known},
            self.family.layout.layers,
            base=self.base,
            outputs=output_filters(self.family.base) if flow.scale else (),
            out_dtype=self.out_dtype,
            seed=self.seed,
            vocabulary=self.vocabulary,
        )

    def of_method(self, method: MethodConfig, settings: Mapping[str, Any] = EMPTY) -> Space:
        """The space of one method; `settings` are further keywords of `Space`."""
        if methods.adapters_only(methods.load(method.name)):
            self.family.refuse_full_checkpoints(self.experts.values(), method.name)
        return Space(
            method=method.name,
            base=self.base,
            experts=self.experts,
            layout=self.family.layout,
            touched=[self.family.touched(ref) for ref in self.experts.values()],
            settings=method.settings,
            options=method.options,
            out_dtype=self.out_dtype,
            seed=self.seed,
            vocabulary=self.vocabulary,
            **settings,
        )

    def _by_schedule(self, method: MethodConfig, settings: Mapping[str, Any], one_of_many: bool) -> NestableSpace:
        """The space of a method, or a choice between schedules if the section lists several."""
        if one_of_many:  # the section's genes are those of all methods
            known = {gene.name for gene in methods.load(method.name).GENES}
            genes = {key: value for key, value in settings.get("genes", EMPTY).items() if key in known}
            settings = {**settings, "genes": genes}
        schedules = settings.get("schedule", "all")
        if not isinstance(schedules, list | tuple):
            return self.of_method(method, settings)
        spaces = {str(one): self.of_method(method, {**settings, "schedule": one}) for one in schedules}
        if len(spaces) < max(2, len(schedules)):
            raise ConfigError(f"space.schedule={list(schedules)}: list at least two schedules, each once")
        return ScheduleChoice(spaces)
