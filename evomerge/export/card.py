"""The model card of a merged checkpoint or adapter, in the hub's format, without a path of this machine."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from evomerge.export.evidence import Evidence
from evomerge.export.licences import merged_licence
from evomerge.export.origins import Origins
from evomerge.recipes import ModelRef, Recipe, dump_recipe, original_recipe, recipe_exactness

REPRODUCTION = {
    "exact": "`evomerge merge recipe.yaml OUT` rebuilds it to the byte, `mergekit-yaml` to fp32 rounding.",
    "distribution-only": "`evomerge merge recipe.yaml OUT` rebuilds it to the byte; mergekit draws other random masks.",
    "frozen-linear": "`mergekit-yaml recipe.yaml OUT` rebuilds it from the frozen per-tensor weights.",
    "native": "`evomerge merge recipe.yaml OUT` rebuilds it to the byte; mergekit lacks this variant.",
}
TASK = "text-generation"


@dataclass(frozen=True)
class _Parts:
    """What differs between the card of a checkpoint and that of an adapter."""

    front: Mapping[str, Any]
    made: str
    again: str


def model_card(recipe: Recipe, dtype: str, name: str, evidence: Evidence) -> str:
    """The text of README.md: front matter for the hub, origin, results and recipe; `name` is the model's."""
    origins = Origins(recipe)
    tags = ["merge", "evomerge", "mergekit", original_recipe(recipe).method]
    front = {"library_name": "transformers", "tags": tags, "base_model": origins.hub_ids() or None}
    front |= {"base_model_relation": "merge"} if origins.hub_ids() else {}
    made = f"Weights in {dtype}, computed in float32 by evomerge from:"
    return _card(recipe, origins, _Parts(front, made, REPRODUCTION[recipe_exactness(recipe)]), name, evidence)


def adapter_card(recipe: Recipe, base: ModelRef, summary: str, rank: int | None, name: str, evidence: Evidence) -> str:
    """The text of README.md for an adapter; `summary` are its figures and `rank` its rank limit."""
    origins = Origins(recipe)
    (of_base,) = origins.of(base)
    tags = ["merge", "evomerge", "lora", original_recipe(recipe).method]
    front = {"library_name": "peft", "tags": tags}
    front |= {"base_model": of_base.name, "base_model_relation": "adapter"} if of_base.is_on_hub else {}
    made = f"A LoRA adapter on {origins.name(base)} in float32 ({summary}), computed by evomerge from:"
    again = f"`evomerge merge recipe.yaml OUT --adapter{f' --rank {rank}' if rank else ''}` makes it again."
    cut = " The scores are those of the merge before it was cut to that rank." if rank else ""
    again += cut if recipe.notes.get("scores") else ""
    return _card(recipe, origins, _Parts(front, made, again), name, evidence if not rank else Evidence())


def _card(recipe: Recipe, origins: Origins, parts: _Parts, name: str, evidence: Evidence) -> str:
    licence, sentence = merged_licence(origins)
    results = list(_results(evidence))
    named = {"eval_results": results, "model_name": name} if results else {}
    front = ModelCardData(**{**parts.front, **licence, **named})
    lines = [
        f"---\n{front.to_yaml()}\n---",
        f"# A merge by {original_recipe(recipe).method}",
        parts.made,
        "\n".join(f"- {origins.name(model)}" for model in recipe.models()),
        sentence,
        parts.again,
        _table(evidence) or _scores(recipe.notes.get("scores") or {}),
        f"## Recipe\n\n```yaml\n{origins.text(dump_recipe(recipe))}```",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _results(evidence: Evidence) -> Iterator[EvalResult]:
    """The holdout scores of the winner: of all tasks together, with its lead over the best baseline, then of each."""
    score = evidence.winner.get("scores", {}).get("holdout")
    if score is None:
        return
    yield _result("holdout", "all tasks", "score", "score", score)
    if lead := evidence.best_comparison:
        bounds = lead.get("interval") or {}
        named = {"baseline": lead["label"], **bounds, "p": lead.get("corrected"), "test": lead.get("test")}
        title = f"lead over the best baseline ({lead['label']})"
        yield _result("holdout", "all tasks", "difference", title, lead["difference"], named)
    for task, value in evidence.winner["tasks"].items():
        if value is not None and math.isfinite(value):
            yield _result(re.sub(r"[^\w.-]+", "-", task), task, "score", "score", value)


def _result(kind: str, data: str, metric: str, title: str, value: float, args: Any = None) -> EvalResult:
    dataset: dict[str, Any] = {"dataset_type": kind, "dataset_name": data, "dataset_split": "holdout"}
    measured: dict[str, Any] = {"metric_type": metric, "metric_name": title, "metric_value": round(value, 6)}
    return EvalResult(task_type=TASK, **dataset, **measured, metric_args=args)


def _table(evidence: Evidence) -> str:
    """The holdout score of each model, and the winner's lead over it with its interval."""
    leads = {one["label"]: one for one in evidence.result.get("comparisons", ())}
    lines = []
    for row in evidence.result.get("rows", ()):
        is_winner = row["role"] == "winner"
        score, lead = row["scores"].get("holdout"), None if is_winner else leads.get(row["label"])
        shown = "failed" if score is None or math.isnan(score) else f"{score:.4f}"
        name = "**this merge**" if is_winner else row["label"].replace("|", "\\|")
        lines.append(f"| {name} | {shown} | {_lead(lead)} |")
    if not lines:
        return ""
    level = (evidence.result.get("interval") or {}).get("level") or 0.95
    heads = f"| model | holdout | this merge is ahead by ({level:.0%} interval) |\n|---|---|---|\n"
    return f"## Results\n\n{heads}" + "\n".join(lines)


def _lead(lead: Mapping[str, Any] | None) -> str:
    if not lead:
        return ""
    bounds = lead.get("interval") or {}
    return f"{lead['difference']:+.4f} [{bounds.get('low', math.nan):+.4f}, {bounds.get('high', math.nan):+.4f}]"


def _scores(scores: Mapping[str, Any]) -> str:
    if not scores:
        return ""
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in scores.items() if isinstance(value, float))
    return f"## Scores\n\n| slice | score |\n|---|---|\n{rows}"
