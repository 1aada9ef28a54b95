"""The page of all configuration keys: defaults and meanings from `conf/`, valid values from annotations."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evomerge.experiment.config import ExperimentConfig
from evomerge.plugins import load_plugin
from evomerge.schema import describe_values
from evomerge.searching import Objective
from evomerge.space import FlowConfig, Space

CONF = Path(__file__).parents[2] / "conf"
ROOMS = {"optimizer": "optimizers", "pool": "workers.pools", "tracker": "trackers"}  # groups whose options are plugins
COMMENT = re.compile(r"(?:^|\s)# ?(.*)$")
LARGE_BOUND = re.compile(r", at most \d{6,}(\.0)?")  # a bound that nobody reaches
OWNERS = {
    ("space", "flow"): FlowConfig,
    ("space",): Space,
    ("objective",): Objective,
}  # classes that sections configure
UNANNOTATED = {  # keys that are read by hand
    "tokenizer.source": "a text, a mapping or null",
    "tokenizer.tokens": "a mapping",
    "tokenizer.pad_to_multiple_of": "a whole number or null",
    "tokenizer.missing": "one of default, pieces",
    "space.flow": "a mapping",
    "space.subset": "true or false",
    "optimizer.mirror": "a path or null",
}
HEAD = """# Configuration keys

Every key of an experiment, with its default. A key is set in an experiment file, or on the command line as
`section.key=value`. A preset of a group is chosen as `group=preset`, for example `optimizer=optuna`. The files are in
the folder `conf/`; `make reference` writes this page from them and from the program's annotations. A wrong key or value
is reported before anything is read, with its name and the valid values.
"""


@dataclass(frozen=True)
class Key:
    """A key of a file of `conf/`."""

    path: tuple[str, ...]
    default: str
    meaning: str

    def row(self, values: str) -> str:
        """A line of a Markdown table."""
        cells = (f"`{'.'.join(self.path)}`", values, f"`{self.default}`" if self.default else "", self.meaning)
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def configuration_page() -> str:
    """The Markdown text of docs/reference/configuration.md."""
    groups = ("space", "optimizer", "scorer", "pool", "tracker", "rules")
    return "\n".join(
        [HEAD, *_main_sections(), *(line for group in groups for line in (f"## {group}\n", *_group(group)))]
    )


def read_keys(file: Path) -> list[Key]:
    """The keys of a file in order; a key's meaning is the comment of its line, or that of its section's line."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    return list(_keys(yaml.compose(text), lines, ()))


def _keys(node: Any, lines: list[str], path: tuple[str, ...]) -> Iterator[Key]:
    for key, value in node.value:
        here = (*path, key.value)
        if here[0] in ("defaults", "hydra"):
            continue
        line = lines[key.start_mark.line]
        meaning = _comment(line, value)
        nested = isinstance(value, yaml.MappingNode) and value.start_mark.line > key.start_mark.line
        yield Key(here, "" if nested else _source(value, lines), meaning)
        if nested:
            yield from _keys(value, lines, here)


def _comment(line: str, value: Any) -> str:
    same_line = value.start_mark.line == value.end_mark.line
    behind = line[value.end_mark.column :] if same_line and not isinstance(value, yaml.SequenceNode) else line
    found = COMMENT.search(behind)
    return found[1] if found else ""


def _source(value: Any, lines: list[str]) -> str:
    """The value as the file spells it; a list of several lines as one."""
    if isinstance(value, yaml.SequenceNode) and not value.flow_style:
        return f"[{', '.join(entry.value for entry in value.value)}]"
    return lines[value.start_mark.line][value.start_mark.column : value.end_mark.column].strip()


def _main_sections() -> Iterator[str]:
    keys = read_keys(CONF / "config.yaml")
    single = [key for key in keys if len(key.path) == 1 and key.default]
    yield _table("## Keys of the experiment\n", single)
    for section in (key for key in keys if len(key.path) == 1 and not key.default):
        inner = [key for key in keys if key.path[0] == section.path[0] and len(key.path) > 1]
        words = f"\n{section.meaning[:1].upper()}{section.meaning[1:]}.\n" if section.meaning else ""
        yield _table(f"## {section.path[0]}\n{words}", inner)


def _group(group: str) -> Iterator[str]:
    """A table for each preset; a key that a preset does not explain is explained in another one of the group."""
    files = {file: read_keys(file) for file in sorted((CONF / group).glob("*.yaml"))}
    meanings = {key.path: key.meaning for keys in files.values() for key in keys if key.meaning}
    for file, keys in files.items():
        lines = file.read_text(encoding="utf-8").split("\n")
        above = " ".join(line[1:].strip() for line in lines if line.startswith("#") and not line.startswith("# @"))
        shown = (key for key in keys if key.default and key.path != ("name",))  # the head has the name
        rows = [Key((group, *key.path), key.default, key.meaning or meanings.get(key.path, "")) for key in shown]
        head = f"### {group}={file.stem}\n" + (f"\n{above}\n" if above else "")
        yield _table(head, rows, file.stem) if rows else head


def _table(head: str, keys: list[Key], preset: str = "") -> str:
    rows = "\n".join(key.row(values_in_words(key.path, preset)) for key in keys)
    return f"{head}\n| key | values | default | meaning |\n|---|---|---|---|\n{rows}\n"


def values_in_words(path: tuple[str, ...], preset: str) -> str:
    """The valid values of a key; those of a plugin's key are in the annotations of the constructor of `preset`."""
    if (found := UNANNOTATED.get(".".join(path))) is not None:
        return found
    if room := ROOMS.get(path[0]):
        return _annotation_in_words(load_plugin(room, preset, path[0]).create, path[1:])
    owner = next((len(above) for above in OWNERS if path[: len(above)] == above), 0)
    return _annotation_in_words(OWNERS.get(path[:owner], ExperimentConfig), path[owner:])


def _annotation_in_words(target: Any, path: tuple[str, ...]) -> str:
    for name in path:
        target = inspect.signature(target).parameters[name].annotation
    return LARGE_BOUND.sub("", describe_values(target))
