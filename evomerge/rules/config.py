"""The section `rules` of the configuration: the limits of a contest; conf/rules/ has the presets."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from evomerge.errors import ConfigError
from evomerge.schema import Label, Range, Text

SHARE_OF_SEARCH = (
    0.8  # of the hours of a rule that a search takes if nobody says how many; export and prediction follow
)
Positive = Annotated[float, Range(0, 1e6, without=(0,))]
Day = Annotated[str, Text(r"\d{4}-\d\d-\d\d", "a date in quotes, such as '2024-05-31'")]


@dataclass(frozen=True, kw_only=True)
class RulesConfig:
    """The limits that models, time and memory are judged by; one that is null or false is not judged.

    `max_billions` is the size of a model in billions of parameters, `licences` the allowed ones, `uploaded_before` the
    day (UTC) before which a model was uploaded. `hours` is the longest `budget.hours`, `gpu_gb` the memory of one GPU.
    """

    name: Label = "none"
    max_billions: Positive | None = None
    licences: Sequence[Label] | None = None
    uploaded_before: Day | None = None
    public: bool = False
    pinned: bool = False
    hours: Positive | None = None
    gpu_gb: Positive | None = None
    starter_kit: bool = False

    def __post_init__(self) -> None:
        if self.licences is not None and not self.licences:
            raise ConfigError("rules.licences: allows none; list them, or give null")
        _ = self.limit_day
        if self.name != "none" and not self.are_any:
            raise ConfigError(f"rules.name={self.name}: no rule is set; choose a preset with rules={self.name}")

    @property
    def are_any(self) -> bool:
        """Whether there is a rule."""
        limits = (self.max_billions, self.licences, self.uploaded_before, self.hours, self.gpu_gb)
        return self.public or self.pinned or any(limit is not None for limit in limits)

    @property
    def limit_day(self) -> datetime | None:
        """The first moment that is too late for an upload."""
        if self.uploaded_before is None:
            return None
        try:
            return datetime.strptime(self.uploaded_before, "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            raise ConfigError(f"rules.uploaded_before={self.uploaded_before}: there is no such day") from None

    @property
    def search_hours(self) -> float | None:
        """The hours for a run that is given none: all where it makes the pack; else export and prediction follow."""
        return None if self.hours is None else (1.0 if self.starter_kit else SHARE_OF_SEARCH) * self.hours
