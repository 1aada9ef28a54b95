"""One experiment wired from its configuration: plain objects in, checked parts out.

Constructors are the schema: a key that none of them takes is a ConfigError that names it and the nearest one.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from evomerge import methods, optimizers, pools, trackers
from evomerge.baselines import baselines
from evomerge.errors import ConfigError
from evomerge.family import Family, expert_ref, pinned
from evomerge.jobs import WorkerSpec
from evomerge.model import check_device, is_encoder_decoder, load_tokenizer, torch_dtype
from evomerge.recipe import ModelRef, Recipe
from evomerge.schema import check_section
from evomerge.scorers.engine import check_tokenizer
from evomerge.scorers.lm_eval import LMEvalScorer
from evomerge.space import Space

log = logging.getLogger(__name__)

Section = TypeVar("Section")
FREE = ("name", "budget", "pool", "tracker")  # what may change when a search is resumed
SPACE_GIVEN = ("method", "base", "experts", "layout", "touched", "settings", "options", "out_dtype", "seed")
SCORER_GIVEN = ("tokenizer", "seed")
FREE_OF_MODEL = ("batch_size", "device")


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Which merge method, with settings that are not searched and published variants."""

    name: str
    settings: Mapping[str, float | bool] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """How the live model is held and run; `dtype` is also what the recipe is exported in."""

    dtype: str = "bfloat16"
    device: str = "auto"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    batch_size: int = 16
    max_length: int | None = None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When a search ends: `evaluations` candidates asked of the optimizer; baselines come on top."""

    evaluations: int = 100


@dataclass(frozen=True, kw_only=True)
class Finalise:
    """How many of the best go from `search` to `select`."""

    top: int = 5


class Experiment:
    """The parts of one search, each made when it is first asked for and checked as it is made.

    `name` is the run folder's, which the command line makes.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        base: str | None = None,
        experts: Mapping[str, str] | None = None,
        method: str | Mapping[str, Any] = "task_arithmetic",
        space: Mapping[str, Any] | None = None,
        optimizer: Mapping[str, Any] | None = None,
        scorer: Mapping[str, Any] | None = None,
        model: Mapping[str, Any] | None = None,
        pool: Mapping[str, Any] | None = None,
        tracker: Mapping[str, Any] | None = None,
        budget: Mapping[str, Any] | None = None,
        finalise: Mapping[str, Any] | None = None,
        seed: int = 1,
    ) -> None:
        if not base or not experts:
            raise ConfigError("base and experts are not set; choose an experiment: +experiment=quickstart, or your own")
        if seed < 0:
            raise ConfigError(f"seed={seed}: give 0 or more")
        self.seed = seed
        self._base, self._experts = base, dict(experts)
        self.method = _build(MethodConfig, {"name": method} if isinstance(method, str) else method, "method")
        self.model = _build(ModelConfig, model or {}, "model")
        self.budget = _build(Budget, budget or {}, "budget")
        self.finalise = _build(Finalise, finalise or {}, "finalise")
        self._space, self._scorer = dict(space or {}), dict(scorer or {})
        self._optimizer = {"name": "cma", **(optimizer or {})}
        self._pool = {"name": "local", **(pool or {})}
        self._tracker = {"name": "none", **(tracker or {})}
        torch_dtype(self.model.dtype)
        check_device(self.model.device, here=self._pool["name"] == "local")
        if self.model.max_length is not None:
            _positive("model.max_length", self.model.max_length)
        methods.load(self.method.name)
        _positive("budget.evaluations", self.budget.evaluations)
        _positive("finalise.top", self.finalise.top)
        _positive("model.batch_size", self.model.batch_size)
        check_section(Space, self._space, "space", SPACE_GIVEN)
        check_section(LMEvalScorer, {k: v for k, v in self._scorer.items() if k != "name"}, "scorer", SCORER_GIVEN)
        self.check_pool()
        self.check_tracker()

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
        for label, ref in self.experts.items():
            maker = family.trained_on(ref)
            if maker and Path(maker).name.lower() != Path(self.base.path).name.lower():
                log.warning(
                    "expert %s: its adapter was trained on %s; is the base %s the same?", label, maker, self.base
                )
        return family

    @cached_property
    def space(self) -> Space:
        """The search space."""
        touched = [self.family.touched(ref) for ref in self.experts.values()]
        given: dict[str, Any] = {
            "method": self.method.name,
            "base": self.base,
            "experts": self.experts,
            "layout": self.family.layout,
            "touched": touched,
            "settings": self.method.settings,
            "options": self.method.options,
            "out_dtype": self.model.dtype,
            "seed": self.seed,
        }
        return Space(**given, **self._space)

    @cached_property
    def baselines(self) -> dict[str, Recipe]:
        """Label → recipe of every mandatory row."""
        return baselines(self.space, self.base, self.experts)

    @cached_property
    def scorer(self) -> LMEvalScorer:
        """The tasks, frozen."""
        settings = dict(self._scorer)
        name = settings.pop("name", "lm_eval")
        if name != "lm_eval":
            raise ConfigError(f"scorer {name!r} is not known; choose lm_eval")
        if not settings.get("tasks"):
            raise ConfigError("scorer.tasks is empty; name at least one task")
        folder = self.family.base.folder
        tokenizer = load_tokenizer(folder, self.model.trust_remote_code)
        check_tokenizer(tokenizer, is_encoder_decoder(folder, self.model.trust_remote_code))
        given: dict[str, Any] = {"tokenizer": tokenizer, "seed": self.seed}
        return LMEvalScorer(**given, **settings)

    def optimizer(self) -> optimizers.Optimizer:
        """A fresh optimizer, seeded with the points worth knowing first."""
        settings = dict(self._optimizer)
        name = str(settings.pop("name"))
        seeds = list({self.space.decode(point).key(): point for point in self.space.seeds().values()}.values())
        return optimizers.create(name, self.space.dimensions, seeds, self.seed, settings)

    def pool(self) -> pools.Pool:
        """The pool with its workers started."""
        settings = dict(self._pool)
        return pools.create(str(settings.pop("name")), self._worker_spec(), settings)

    def check_pool(self) -> None:
        """ConfigError where the pool's settings cannot be met; starts nothing."""
        settings = dict(self._pool)
        pools.check(str(settings.pop("name")), settings)

    def tracker(self, folder: Path, config: Mapping[str, Any]) -> trackers.Tracker:
        """The tracker of the run in `folder`, started."""
        settings = dict(self._tracker)
        return trackers.create(str(settings.pop("name")), folder, config, settings)

    def check_tracker(self) -> None:
        """ConfigError where the tracker's package is not installed; starts nothing."""
        settings = dict(self._tracker)
        trackers.check(str(settings.pop("name")), settings)

    def _worker_spec(self) -> WorkerSpec:
        chunks = [chunk for chunks in self.scorer.plan.chunks.values() for chunk in chunks]
        requests = {chunk.id: self.scorer.requests(chunk) for chunk in chunks}
        return WorkerSpec(self.base, tuple(self.experts.values()), requests, **asdict(self.model))


def from_config(config: Mapping[str, Any]) -> Experiment:
    """The experiment of a composed configuration; a key that it does not have is a ConfigError."""
    check_section(Experiment, config, "")
    return Experiment(**config)


def fixed_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change between the runs of one search: everything but what is FREE."""
    fixed = {key: value for key, value in config.items() if key not in FREE}
    if "model" in fixed:
        fixed["model"] = {key: value for key, value in fixed["model"].items() if key not in FREE_OF_MODEL}
    return fixed


def _build(cls: type[Section], section: Any, where: str) -> Section:
    check_section(cls, section, where)
    return cls(**section)


def _positive(key: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{key}={value}: give at least 1")
