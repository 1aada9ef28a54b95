"""Writes the best order of layers of a finished run as a recipe file: the best flow on `select`, the winner or not.

A run's winner may be a baseline. `python experiments/flow/best_flow.py RUN OUT.yaml` then shows what the flows came to;
a run with `+baselines.recipes.best_flow=OUT.yaml` scores the file on all slices.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from evomerge.ledger import plan_of, read_trials
from evomerge.paths import LEDGER
from evomerge.recipes import dump_recipe, parse_recipe


def main(arguments: Sequence[str]) -> None:
    """Write the recipe, and its score on `select` to the standard output."""
    run, out = map(Path, arguments)
    header, lines = read_trials(run / LEDGER)
    recipes = {line["key"]: line["recipe"] for line in lines if "recipe" in line}
    plan = plan_of(header, lines)
    chunks = {chunk.id: chunk.items for chunk in plan.chunks["select"]}
    scores: dict[str, dict[str, float]] = {}
    for line in lines:
        is_flow = "slices" in recipes.get(line.get("key", ""), {})
        if is_flow and line.get("chunk") in chunks and "scores" in line:
            scores.setdefault(line["key"], {}).update(zip(chunks[line["chunk"]], line["scores"], strict=True))
    found = {key: plan.score(items) for key, items in scores.items()}
    best = max(found, key=lambda key: found[key])
    out.write_text(dump_recipe(parse_recipe(recipes[best])))
    parts = [part["sources"][0] for part in recipes[best]["slices"]]
    order = ", ".join(f"{Path(part['model']).name} {part['layer_range']}" for part in parts)
    sys.stdout.write(yaml.safe_dump({"select": found[best], "flows on select": len(found), "order": order}, width=200))


if __name__ == "__main__":
    main(sys.argv[1:])
