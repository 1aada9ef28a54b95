"""The model card of a merged checkpoint, in the hub's format."""

from collections.abc import Mapping
from typing import Any

import yaml

from evomerge import methods, recipe_yaml
from evomerge.recipe import Recipe

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
    method = methods.exactness(recipe.method, recipe.options)
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# A merge by {recipe.method}",
        f"Weights in {dtype}, computed in float32 by evomerge from:",
        "\n".join(f"- {model}" for model in models),
        REPRODUCED[method],
        _scores(recipe.notes.get("scores") or {}),
        f"## Recipe\n\n```yaml\n{recipe_yaml.dump(recipe)}```",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _scores(scores: Mapping[str, Any]) -> str:
    if not scores:
        return ""
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in scores.items() if isinstance(value, float))
    return f"## Scores\n\n| slice | score |\n|---|---|\n{rows}"
