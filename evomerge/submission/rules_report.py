"""RULES.md: the verdict on each rule of the contest, and what else of the pack a jury will ask about."""

from collections.abc import Iterator
from typing import Any

from evomerge.submission.frozen_table import is_local
from evomerge.submission.markdown import table
from evomerge.submission.pack_facts import PackFacts


def rules_text(facts: PackFacts) -> str:
    """The text of RULES.md."""
    return "\n\n".join(("# Rules", *_verdicts(facts), "## What the pack loads and ships", *_contents(facts))) + "\n"


def _verdicts(facts: PackFacts) -> Iterator[str]:
    found: dict[str, Any] = dict(facts.run.result.get("rules") or {})
    if not found:
        yield "The run was judged by no rules. Search again with `rules=lmc2024` for a verdict on each rule and model."
        return
    yield f"Verdicts by the rules `{found.get('name')}`, read before the search."
    keys = ("rule", "model", "status", "reason", "remedy")
    yield table(keys, [[verdict.get(key, "") for key in keys] for verdict in found["verdicts"]])


def _contents(facts: PackFacts) -> Iterator[str]:
    yield "\n".join(f"- {line}." for line in facts.table.forms())
    for reason, count in facts.table.reasons.items():
        yield f"{count} merged tensors are shipped as weights, because the recipe needs {reason}."
    if is_local(facts.table.models):
        yield (
            "**Folders of this machine** are named in the method's JSON file, because the run used folders. The contest"
            " wants models of the hub: search with hub ids, or replace the paths by ids and revisions."
        )
    unpinned = [str(model["path"]) for model in facts.table.models if not model["revision"]]
    if unpinned and not is_local(facts.table.models):
        yield f"No revision is known of {', '.join(unpinned)}; name one, because the contest's date limits it."
    yield f"Merging and predicting took {facts.seconds:.0f} s on the machine that wrote this pack."
