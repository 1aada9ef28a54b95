"""The settings of `score`, checked before any large library is imported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from evomerge.atomic import refuse_unwritable
from evomerge.errors import ConfigError
from evomerge.schema import Count, Location, Natural, Range, build, prefix_errors
from evomerge.workers import Device, Dtype, Scoring, Tokens


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """What `score` takes as key=value: keywords of `lm_eval.simple_evaluate`, and keys of an experiment's `model`."""

    tasks: str | Sequence[Any]
    num_fewshot: Natural | None = None
    limit: Annotated[float, Range(0, 1e9, without=(0,))] | None = None
    include_path: Location | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool | None = None
    system_instruction: str | None = None
    gen_kwargs: Mapping[str, Any] | None = None
    dtype: Dtype | None = None
    device: Device = "auto"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    batch_size: Count = 16
    batch_tokens: Tokens = 4096
    max_length: Tokens | None = None
    scoring: Scoring = "auto"
    out: Location | None = None

    def __post_init__(self) -> None:
        if self.out and not Path(self.out).resolve().parent.is_dir():
            raise ConfigError(f"out={self.out}: its folder is not there; make it first")
        if self.out:
            with prefix_errors("out"):
                refuse_unwritable(Path(self.out))


@dataclass(frozen=True, kw_only=True)
class RunScoreConfig:
    """What `score` takes with `run=RUN_DIR`: tasks, batches and prompts are those of the run."""

    run: Location
    dtype: Dtype | None = None
    device: Device = "auto"
    attn_implementation: str | None = None
    trust_remote_code: bool = False

    def as_score_config(self, dtype: Dtype) -> ScoreConfig:
        """The settings by which the model is loaded; `dtype` is that of the run, where none is given."""
        loaded = {key: value for key, value in vars(self).items() if key != "run"}
        return ScoreConfig(tasks=[], **loaded | {"dtype": self.dtype or dtype})


def read_run_score_config(settings: Mapping[str, Any]) -> RunScoreConfig:
    """The settings as checked values, as `read_score_config` gives them."""
    return build(RunScoreConfig, settings, "")


def read_score_config(settings: Mapping[str, Any]) -> ScoreConfig:
    """The settings as checked values; ConfigError names an unknown key and the nearest known one."""
    return build(ScoreConfig, settings, "")
