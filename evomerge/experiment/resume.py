"""Which keys of a configuration may change when a run is resumed; checked before any large library is imported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.ledger import refuse_other_search
from evomerge.paths import LEDGER
from evomerge.schema import check_value

# Keys that have no influence on the score of a candidate or on which candidates are proposed.
CHANGEABLE = ("name", "budget", "pool", "tracker", "finalise", "baselines", "rules", "submission")
CHANGEABLE_IN_SECTION = {
    "model": ("batch_size", "batch_tokens", "device", "compile", "placement"),
    "optimizer": ("mirror",),
}
ASKED = ("source", "tokens", "pad_to_multiple_of")  # keys of the section `tokenizer` that ask for another vocabulary
# Settings of cma that were added later; without a descent they have no effect, and older ledgers do not have them.
OF_A_DESCENT = ("start", "share", "rate", "batch", "passes", "origin")


def fixed_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that must stay the same for the ledger to be valid."""
    fixed = {key: value for key, value in config.items() if key not in CHANGEABLE}
    for section, changeable in CHANGEABLE_IN_SECTION.items():
        if isinstance(fixed.get(section), Mapping):
            fixed[section] = {key: value for key, value in fixed[section].items() if key not in changeable}
    if isinstance(tokenizer := fixed.get("tokenizer"), Mapping) and not any(map(tokenizer.get, ASKED)):
        del fixed["tokenizer"]  # it was added later; older ledgers do not have it
    if isinstance(screen := fixed.get("screen"), Mapping) and screen.get("most") is None:
        del fixed["screen"]  # it was added later; older ledgers do not have it
    if isinstance(space := fixed.get("space"), Mapping) and space.get("router") == "merge":
        fixed["space"] = {key: value for key, value in space.items() if key != "router"}  # it was added later
    if isinstance(scorer := fixed.get("scorer"), Mapping):  # the engine that was used has an entry of its own
        fixed["scorer"] = {key: value for key, value in scorer.items() if key != "generation"}
    if isinstance(search := fixed.get("search"), Mapping) and search.get("mode", "generations") == "generations":
        del fixed["search"]  # it was added later; older ledgers do not have it
    optimizer = fixed.get("optimizer")
    if isinstance(optimizer, Mapping) and optimizer.get("name") == "cma" and optimizer.get("start") != "slope":
        fixed["optimizer"] = {key: value for key, value in optimizer.items() if key not in OF_A_DESCENT}
    return fixed


def refuse_changed(config: Mapping[str, Any], folder: Path) -> None:
    """RunError with the difference where the run in `folder` was started with another configuration.

    ConfigError where the configuration holds something else than plain values.
    """
    check_value(config, Mapping[str, Any], "")
    if (folder / LEDGER).is_file():
        refuse_other_search(folder / LEDGER, {"config": fixed_part(config)})
