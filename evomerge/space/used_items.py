"""The items by which earlier runs have chosen the recipes that a search begins from.

Such a recipe fits these items by selection, so a select or holdout slice that holds them would rate it too high.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, RunError
from evomerge.ledger import read_trials
from evomerge.paths import LEDGER
from evomerge.recipes import load_recipe, original_recipe
from evomerge.schema import prefix_errors

log = logging.getLogger(__name__)

CHOOSING_SLICES = ("search", "select")


def items_used_by(paths: Sequence[str]) -> set[str]:
    """Item ids and content hashes of the documents on which the runs of `init` have searched or selected.

    `paths` are run folders and recipe files. The runs from which such a run was begun count too. A recipe file leads to
    the ledger in its own folder or the folder above. Items that are not known are logged as a warning.
    """
    found: set[str] = set()
    for path in paths:
        try:
            with prefix_errors("init"):
                folder = _run_folder(Path(path))
            found |= _items_of(folder, {folder.resolve()}) if folder else set()
        except (RunError, KeyError, TypeError) as error:
            raise ConfigError(f"init {path}: not a run that has scored anything ({error}); give its folder") from None
    return found


def _run_folder(path: Path) -> Path | None:
    """The folder of the run that made the recipes of `path`; None for a recipe that comes from no run."""
    if path.is_dir():
        return path
    recipe = load_recipe(path)
    if "scores" not in recipe.notes:
        return None
    key = original_recipe(recipe).key()
    for folder in (path.parent, path.parent.parent):
        if (folder / LEDGER).is_file() and key in {line.get("key") for line in read_trials(folder / LEDGER)[1]}:
            return folder
    log.warning(
        "init %s: no ledger of the run that made it is beside it, so select and holdout may hold items that it was "
        "chosen by; give the file in its run's folder",
        path,
    )
    return None


def _items_of(folder: Path, visited: set[Path]) -> set[str]:
    """The used items of a run, and of the runs that it was begun from."""
    header, _ = read_trials(folder / LEDGER)
    chunks: Mapping[str, Iterable[str]] = header["chunks"]
    found = {item for id_, items in chunks.items() if id_.partition("/")[0] in CHOOSING_SLICES for item in items}
    found |= set(header.get("contents", {}).values())
    if "contents" not in header:
        log.warning("init %s: a run of an older version; its items are recognised by id only, not by content", folder)
    return found | (set(header["used"]) if "used" in header else _items_of_origins(header["config"], visited))


def _items_of_origins(config: Mapping[str, Any], visited: set[Path]) -> set[str]:
    """The used items of the runs in `init` of a run that has not recorded them."""
    found: set[str] = set()
    for path in map(Path, config.get("init", ())):
        try:
            folder = _run_folder(path)
            if folder and folder.resolve() not in visited:
                visited.add(folder.resolve())
                found |= _items_of(folder, visited)
        except (ConfigError, RunError):
            log.warning("init %s: cannot be read any more, so select and holdout may hold items of that run", path)
    return found
