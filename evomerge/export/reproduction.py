"""reproduce.json of an exported folder: all that is needed to make the model again on another machine."""

import json
from collections.abc import Sequence
from typing import Any

from evomerge.environment import versions
from evomerge.export.evidence import Evidence
from evomerge.export.origins import Origin, Origins
from evomerge.models import Family
from evomerge.recipes import Recipe, dump_recipe
from evomerge.redaction import without_secrets

REPRODUCE = "reproduce.json"
PRIVATE = ("pool", "tracker")  # sections without influence on a score, which may have addresses
CLAIM = ("verdict", "best_baseline", "difference", "interval", "counts")


def reproduction(recipe: Recipe, family: Family, fingerprint: str, evidence: Evidence, options: str = "") -> str:
    """The text of the file: versions, recipe, models, seeds, configuration and claim, without a path of this machine.

    A model has the SHA-256 of its weights where the recipe records it, or where it is not on the hub.
    """
    origins, config = Origins(recipe), evidence.config
    digests = recipe.notes.get("models") or ({} if all(o.is_on_hub for o in origins) else family.hashes())
    made_by = without_secrets({key: value for key, value in config.items() if key not in PRIVATE})
    document: dict[str, Any] = {
        "schema": 1,
        "commands": _commands(bool(config), options),
        "fingerprint": fingerprint,
        "versions": {"search": recipe.notes.get("versions"), "merge": versions()},
        "seeds": {"recipe": recipe.seed, "search": config.get("seed")},
        "models": [_model(origins.of(ref), digests.get(str(ref))) for ref in recipe.models()],
        "scores": recipe.notes.get("scores"),
        "claim": {key: evidence.result[key] for key in CLAIM if key in evidence.result} or None,
        "config": origins.value(made_by) or None,
        "recipe": origins.text(dump_recipe(recipe)),
    }
    return json.dumps(document, indent=2) + "\n"


def merge_command(options: str) -> str:
    """The command that makes a folder again; `options` are those of the export, such as ` --adapter`."""
    return f"evomerge merge recipe.yaml OUT{options}"


def adapter_options(adapter: bool, rank: int | None) -> str:
    """The options of the command `merge` for an adapter; empty for a checkpoint."""
    return f" --adapter{f' --rank {rank}' if rank else ''}" if adapter else ""


def _commands(has_config: bool, options: str) -> dict[str, str]:
    search = {"search": "evomerge experiment.yaml"} if has_config else {}  # a file with the entry `config`
    return {"merge": merge_command(options), **search}


def _model(origins: Sequence[Origin], digest: str | None) -> dict[str, Any]:
    model, *adapters = origins
    entry: dict[str, Any] = {**model.as_dict(), "sha256": digest}
    return entry | {"adapter": adapters[0].as_dict()} if adapters else entry
