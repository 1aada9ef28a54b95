"""How to reproduce a run: commands, recipe, configuration, hashes, without the folders of the machine it ran on."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from evomerge.paths import CONFIG, RECIPE, replace_path
from evomerge.redaction import without_secrets
from evomerge.report.budget_section import VARIABLE_COUNTS
from evomerge.report.html_elements import details, fact_table, preformatted, section
from evomerge.report.record import Record

# An absolute path inside a text: from a slash that does not follow a word, a slash or a colon; two parts or more.
ABSOLUTE = re.compile(r"(?<![\w/.~…:}*-])/(?:[\w.@ -]*[\w.@-]/)+[\w.@-]+")
LOCAL_URL = re.compile(r"\b(?:file|sqlite):/+(?=[^/\s]+/)([^\s'\"]+)")
KEPT_PARTS = 2
NOTE = "Paths of the machine are shortened to their last two parts, after …/; put your own there."


def reproduce_section(record: Record) -> str:
    """The commands, the recipe, the configuration and the facts that identify the run."""
    result, (folder, recipe_file, config_file) = record.result, _files(f"runs/{record.name}")
    commands = (
        f"# rebuild the winner, compare its fingerprint and its scores\nevomerge replay {folder}\n"
        f"# write the merged model\nevomerge merge {recipe_file} OUT_DIR\n"
        f"# search again from the same configuration\nevomerge {config_file} --out AGAIN_DIR"
    )
    facts = {
        "base": shorten_paths(str(record.config["base"])),
        **{f"expert {label}": shorten_paths(str(path)) for label, path in record.config["experts"].items()},
        "winner": f"{result['winner']['label']}, key {result['winner']['key']}",
        "fingerprint": result["fingerprint"],
        **{name.replace("_", " "): value for name, value in result["counts"].items() if name not in VARIABLE_COUNTS},
        "seed": record.config.get("seed"),
    }
    config = yaml.safe_dump(shortened(without_secrets(record.config)), sort_keys=False, allow_unicode=True)
    recipe = shortened_text(record.recipe_text, yaml.safe_load(record.recipe_text))
    inner = (
        f"{preformatted(commands, 'commands')}<h3>Recipe</h3>{preformatted(recipe, 'recipe.yaml')}"
        f"{details('Configuration', preformatted(config, 'config.yaml'))}<h3>Identity</h3>{fact_table(facts)}"
    )
    return section("How to reproduce it", NOTE, inner)


def _files(folder: str) -> list[str]:
    """The folder of a run, its recipe and its configuration as words of a shell."""
    return [shlex.quote(path) for path in (folder, f"{folder}/{RECIPE}", f"{folder}/{CONFIG}")]


def shorten_paths(text: str) -> str:
    """The text with the last parts of each absolute path; a text that is such a path may contain any character."""
    if os.path.isabs(text) and "\n" not in text and len(PurePosixPath(text).parts) > 2:
        return _shorten(text)
    text = LOCAL_URL.sub(lambda match: _shorten(f"/{match[1]}"), text)
    return ABSOLUTE.sub(lambda match: _shorten(match[0]), text)


def shortened(value: Any) -> Any:
    """A configuration with shortened paths in its keys and values."""
    if isinstance(value, Mapping):
        return {shortened(key): shortened(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [shortened(entry) for entry in value]
    return shorten_paths(value) if isinstance(value, str) else value


def shortened_text(text: str, document: Any) -> str:
    """A YAML text with shortened paths, otherwise as it stands; `document` holds its values."""
    paths = {entry for entry in _texts(document) if os.path.isabs(entry) and shorten_paths(entry) != entry}
    for path in sorted(paths, key=len, reverse=True):
        text = replace_path(text, path, shorten_paths(path))
    return ABSOLUTE.sub(lambda match: _shorten(match[0]), text)


def _shorten(path: str) -> str:
    return "…/" + "/".join(PurePosixPath(path).parts[-KEPT_PARTS:])


def _texts(value: Any) -> Iterator[str]:
    """Every text of a document: keys and values."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _texts(key)
            yield from _texts(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)
    elif isinstance(value, str):
        yield value
