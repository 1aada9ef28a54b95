"""What one search keeps from its first command to its last, and where it runs: known before any library is loaded."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError
from evomerge.experiment.config import read_config
from evomerge.experiment.defaults import read_file, with_defaults
from evomerge.ledger import refuse_other_search
from evomerge.paths import LEDGER
from evomerge.schema import check_value, shown

FREE = ("name", "budget", "pool", "tracker", "finalise", "baselines")  # what may change when a search is resumed
FREE_OF_MODEL = ("batch_size", "batch_tokens", "device", "compile", "placement")


def fixed_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change between the runs of one search: everything but what is FREE."""
    fixed = {key: value for key, value in config.items() if key not in FREE}
    for section, free in (("model", FREE_OF_MODEL), ("optimizer", ("mirror",))):
        if isinstance(fixed.get(section), Mapping):
            fixed[section] = {key: value for key, value in fixed[section].items() if key not in free}
    return fixed


def refuse_changed(config: Mapping[str, Any], folder: Path) -> None:
    """RunError where the run in `folder` was begun otherwise; ConfigError where the configuration is not plain."""
    check_value(config, Mapping[str, Any], "")
    if (folder / LEDGER).is_file():
        refuse_other_search(folder / LEDGER, {"config": fixed_part(config)})


def run_name(name: Any) -> str:
    """The name of a run as the path of its folder below runs/; ConfigError where it is none or leads elsewhere."""
    if name is None:  # as it is without an experiment, whose name it is otherwise
        raise ConfigError("name=null: choose an experiment: +experiment=quickstart, or your own, or give a name")
    parts = name.split("/") if isinstance(name, str) else []
    if not parts or not all(re.fullmatch(r"(?!\.{1,2}$)[^/]{1,200}", part) and part.isprintable() for part in parts):
        raise ConfigError(f"name={shown(name)}: give the name of a run folder, which is made below runs/")
    return "/".join(parts)


def prepare_run(config: Mapping[str, Any] | str | Path, folder: str | Path | None) -> tuple[dict[str, Any], Path]:
    """The whole configuration and the folder of a run that Python code starts; ConfigError where it cannot be meant."""
    given = config if isinstance(config, Mapping) else read_file(Path(config))
    plain = with_defaults(given)
    if folder is None and not given.get("name"):
        raise ConfigError("give the run's folder, or a name in the configuration")
    place = Path(folder) if folder is not None else Path("runs") / run_name(given["name"])
    plain.setdefault("name", place.name)
    refuse_changed(plain, place)
    read_config(plain)
    return plain, place
