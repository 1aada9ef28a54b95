"""All rules for all models: the verdicts, their table, and the error for those that are broken."""

from collections.abc import Iterator, Mapping, Sequence

from evomerge.errors import RulesError
from evomerge.recipes import ModelRef
from evomerge.rules.config import RulesConfig
from evomerge.rules.hours import judge_hours
from evomerge.rules.judged_model import judged_models
from evomerge.rules.licence import judge_licence
from evomerge.rules.size import judge_size
from evomerge.rules.upload import judge_public, judge_revision, judge_upload_date
from evomerge.rules.verdict import Verdict


def judge(
    rules: RulesConfig,
    base: ModelRef,
    experts: Mapping[str, ModelRef],
    hours: float | None,
    *,
    submits: bool = False,
) -> Iterator[Verdict]:
    """The verdicts that need no family: rule by rule, each for the base and the experts, then that on `budget.hours`.

    `submits` says whether the hours cover predictions and a pack.
    Reads headers and configurations, no weights. Of a hub model without its weights, only the configuration is
    downloaded.
    """
    models = list(judged_models(base, experts)) if rules.are_any else []
    limit = rules.limit_day
    if rules.max_billions is not None:
        yield from (judge_size(model, rules.max_billions) for model in models)
    if rules.licences is not None:
        yield from (judge_licence(model, rules.licences) for model in models)
    if limit is not None:
        yield from (judge_upload_date(model, limit) for model in models)
    if rules.public:
        yield from map(judge_public, models)
    if rules.pinned:
        yield from map(judge_revision, models)
    if rules.hours is not None:
        yield judge_hours(hours, rules.hours, submits=submits)


def is_any_broken(verdicts: Sequence[Verdict]) -> bool:
    """Whether a rule is broken."""
    return any(verdict.status == "broken" for verdict in verdicts)


def refuse_broken(name: str, verdicts: Sequence[Verdict]) -> None:
    """RulesError with a line for each broken rule of each model, if there are any."""
    broken = [verdict for verdict in verdicts if verdict.status == "broken"]
    if broken:
        lines = (f"rules {name}: {each.rule}: {each.model}: {each.reason} → {each.remedy}" for each in broken)
        raise RulesError("\n".join(lines))


def verdict_lines(name: str, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """The table of the verdicts: status, rule, model and reason, and below each that is not kept its remedy."""
    if not verdicts:
        return
    counts = {status: sum(each.status == status for each in verdicts) for status in ("ok", "broken", "unknown")}
    yield f"rules     {name}: {', '.join(f'{count} {status}' for status, count in counts.items() if count)}"
    rules, models = max(len(each.rule) for each in verdicts), max(len(each.model) for each in verdicts)
    for each in verdicts:
        yield f"{each.status:<9} {each.rule:<{rules}}  {each.model:<{models}}  {each.reason}"
        if each.remedy:
            yield f"          {'':<{rules}}  {'':<{models}}  → {each.remedy}"
