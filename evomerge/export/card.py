"""The model card of a merged checkpoint or adapter, in the hub's format."""

from collections.abc import Mapping
from typing import Any

import yaml

from evomerge.recipes import ModelRef, Recipe, dump_recipe, original_recipe, recipe_exactness

REPRODUCED = {
    "exact": "`evomerge merge recipe.yaml OUT` rebuilds it to the byte, `mergekit-yaml` to fp32 rounding.",
    "distribution-only": "`evomerge merge recipe.yaml OUT` rebuilds it to the byte; mergekit draws other random masks.",
    "frozen-linear": "`mergekit-yaml recipe.yaml OUT` rebuilds it from the frozen per-tensor weights.",
    "native": "`evomerge merge recipe.yaml OUT` rebuilds it to the byte; mergekit lacks this variant.",
}


def model_card(recipe: Recipe, dtype: str) -> str:
    """README.md: hub front matter, how it was made, what it scored, the recipe."""
    models = [str(model) for model in recipe.models()]
    front = {"library_name": "transformers", "tags": ["evomerge", "mergekit", "merge"], "base_model": models}
    made = f"Weights in {dtype}, computed in float32 by evomerge from:"
    return _card(recipe, front, made, REPRODUCED[recipe_exactness(recipe)])


def adapter_card(recipe: Recipe, base: ModelRef, summary: str, rank: int | None) -> str:
    """README.md of an adapter; `summary` says what it holds, `rank` what it was cut to."""
    tags = ["evomerge", "merge", "lora"]
    front = {"library_name": "peft", "tags": tags, "base_model": str(base), "base_model_relation": "adapter"}
    made = f"A LoRA adapter on {base} in float32 ({summary}), computed by evomerge from:"
    again = f"`evomerge merge recipe.yaml OUT --adapter{f' --rank {rank}' if rank else ''}` makes it again."
    cut = " The scores are those of the merge before it was cut to that rank." if rank else ""
    return _card(recipe, front, made, again + (cut if recipe.notes.get("scores") else ""))


def _card(recipe: Recipe, front: Mapping[str, Any], made: str, again: str) -> str:
    lines = [
        f"---\n{yaml.safe_dump(dict(front), sort_keys=False)}---",
        f"# A merge by {original_recipe(recipe).method}",
        made,
        "\n".join(f"- {model}" for model in recipe.models()),
        again,
        _scores(recipe.notes.get("scores") or {}),
        f"## Recipe\n\n```yaml\n{dump_recipe(recipe)}```",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _scores(scores: Mapping[str, Any]) -> str:
    if not scores:
        return ""
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in scores.items() if isinstance(value, float))
    return f"## Scores\n\n| slice | score |\n|---|---|\n{rows}"
