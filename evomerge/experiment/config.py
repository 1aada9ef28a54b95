"""The configuration of one search, checked key by key; nothing is opened, and no large library is imported, for it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge import optimizers, trackers
from evomerge.errors import ConfigError
from evomerge.finalise import FinaliseConfig
from evomerge.recipes import parse_tokenizer_section
from evomerge.rules import RulesConfig
from evomerge.schema import Label, Location, Seed, build, check_section, check_value
from evomerge.scoring.tasks import ScorerConfig
from evomerge.screening import ScreenConfig
from evomerge.searching import BudgetConfig, Objective, RaceConfig, SearchConfig
from evomerge.space import BaselinesConfig, Space, read_flow, read_methods, read_textbook, refuse_unknown_genes
from evomerge.submission import PackConfig
from evomerge.workers import ModelConfig, pools

GIVEN_TO_SPACE = (
    "method",
    "base",
    "experts",
    "layout",
    "touched",
    "settings",
    "options",
    "out_dtype",
    "seed",
    "vocabulary",
)


@dataclass(kw_only=True)
class ExperimentConfig:
    """The keys of an experiment, each a section of the room that it configures; conf/config.yaml explains them all.

    ConfigError names the first key or value that is wrong. `name` is the name of the run's folder. `methods` are
    the methods that the search may choose among, `textbook_merges` the rows that `baselines.methods` adds, by label.
    """

    name: str = ""
    base: Location | None = None
    experts: Mapping[Label, Location] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    method: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] = "task_arithmetic"
    space: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    scorer: ScorerConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    pool: Mapping[str, Any] = field(default_factory=dict)
    tracker: Mapping[str, Any] = field(default_factory=dict)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    race: RaceConfig = field(default_factory=RaceConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    finalise: FinaliseConfig = field(default_factory=FinaliseConfig)
    objective: Mapping[str, Any] = field(default_factory=dict)
    screen: ScreenConfig = field(default_factory=ScreenConfig)
    baselines: BaselinesConfig = field(default_factory=BaselinesConfig)
    init: Sequence[Location] = ()
    rules: RulesConfig = field(default_factory=RulesConfig)
    submission: PackConfig = field(default_factory=PackConfig)
    seed: Seed = 1

    def __post_init__(self) -> None:
        if not self.base or not self.experts:
            raise ConfigError("base and experts are not set; choose an experiment: +experiment=quickstart, or your own")
        self.methods = read_methods(self.method)
        given = self.baselines.methods.items()
        self.textbook_merges = {label: read_textbook(value, f"baselines.methods.{label}") for label, value in given}
        self.tokenizer_request = parse_tokenizer_section(self.tokenizer)
        self._check_screen()
        self.scorer.check()
        check_value(self.space.get("subset", False), bool, "space.subset")
        check_section(Space, self.space_settings, "space", GIVEN_TO_SPACE)
        self.flow = read_flow(self.space, [method.name for method in self.methods], tuple(self.experts))
        if self.flow and self.screen.most is not None:
            raise ConfigError("screen.most: a flow chooses layers, not experts; set it to null")
        if genes := self.space.get("genes"):
            refuse_unknown_genes(genes, [method.name for method in self.methods])
        check_section(Objective, self.objective, "objective")
        optimizers.check(
            self.chosen("optimizer", "cma"), self.settings("optimizer"), asynchronous=self.search.is_asynchronous
        )
        pools.check(self.chosen("pool", "local"), self.settings("pool"))
        trackers.check(self.chosen("tracker", trackers.NONE), self.settings("tracker"))

    def _check_screen(self) -> None:
        self.screen.check(self.experts)
        if self.tokenizer_request and self.screen.applies_to(self.experts):
            raise ConfigError(
                "tokenizer: its vocabulary may come from experts that leave; set screen.most=null with it"
            )
        if self.screen.most is not None:
            for key, given in (("init", self.init), ("baselines.recipes", self.baselines.recipes)):
                if given:
                    raise ConfigError(f"{key}: its recipes may merge experts that leave; set screen.most=null with it")
            kept = self.objective.get("keep") or {}
            named = {
                re.split(r" [-+] ", str(floor))[0].strip()
                for floor in (kept.values() if isinstance(kept, Mapping) else ())
            }
            if lost := next((label for label in self.experts if label in named - set(self.screen.always)), None):
                raise ConfigError(f"objective.keep: the expert {lost} may leave; add it to screen.always")

    @property
    def space_settings(self) -> dict[str, Any]:
        """The keywords that `Space` takes from the section."""
        return {key: value for key, value in self.space.items() if key not in ("subset", "flow")}

    def chosen(self, section: str, default: str) -> str:
        """The name of the optimizer, pool or tracker that a section chooses."""
        name = getattr(self, section).get("name", default)
        check_value(name, str, f"{section}.name")
        return str(name)

    def settings(self, section: str) -> dict[str, Any]:
        """What else the section of an optimizer, pool or tracker says."""
        return {key: value for key, value in getattr(self, section).items() if key != "name"}


def read_config(plain: Mapping[str, Any]) -> ExperimentConfig:
    """A composed configuration as checked sections; ConfigError names an unknown key and the nearest known one."""
    return build(ExperimentConfig, plain, "")
