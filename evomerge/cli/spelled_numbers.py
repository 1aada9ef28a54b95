"""Numbers that Hydra and OmegaConf would change without a word: 017 → 15, 1_000 → 1000, 1:30 → 90."""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError
from evomerge.parsing import changed_number, dump_yaml, parse_yaml

LIST = re.compile(r"[+]*(\w+)=\[([^\[\]]*)\]$")
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
NUMBER = re.compile(r"(?<![\w.+/-])[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9_]+)?(?![\w./-])")
END_OF_DOCUMENT = "...\n"  # after a single value


def refuse_changed_numbers(choices: Mapping[str, str | None], overrides: Iterable[str]) -> None:
    """ConfigError for such a number in a file of the user's conf/ folder; `choices` are the chosen names by group.

    Lists of names are in the overrides alone. The files that a file's `defaults` name count too, and so do numbers that
    a float cannot hold, and repeated keys.
    """
    conf = Path(os.environ.get("EVOMERGE_CONF", "conf"))
    lists = [
        (found[1], name.strip()) for text in overrides if (found := LIST.match(text)) for name in found[2].split(",")
    ]
    waiting = [conf / group / f"{name}.yaml" for group, name in [*choices.items(), *lists]]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        waiting += _defaults_of(path, _checked(path), conf)


def refuse_changed_override(text: str) -> None:
    """ConfigError for an override whose unquoted value has a number that Hydra would change: 1_000, 1e-400."""
    key, _, value = text.partition("=")
    for number in NUMBER.findall(QUOTED.sub("", value)):
        if "_" in number or (
            float(number) in (0.0, math.inf, -math.inf) and re.search("[1-9]", re.split("[eE]", number)[0])
        ):
            raise ConfigError(f"{key}: {number}: write the number in decimal digits, or a text in quotes")


def _checked(path: Path) -> Any:
    """The values of a file; ConfigError for what Hydra would change."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    if spelled := changed_number(text):
        raise ConfigError(f"{path}: {spelled}: write the number in decimal digits, or a text in quotes")
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _defaults_of(path: Path, values: Any, conf: Path) -> Iterator[Path]:
    """The files that a file's `defaults` name; those of other groups are among the choices, too."""
    entries = values.get("defaults") if isinstance(values, Mapping) else None
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, str) and entry != "_self_":
            yield (conf if entry.startswith("/") else path.parent) / f"{entry.lstrip('/')}.yaml"


def plain_override(text: str) -> str:
    """The override `key=value` with the value as OmegaConf reads it the same; ConfigError if it is not YAML."""
    key, _, value = text.partition("=")
    try:
        plain = dump_yaml(parse_yaml(value), default_flow_style=True, width=10**6, allow_unicode=True)
    except ValueError as error:
        raise ConfigError(f"{key}: not YAML ({error})") from None
    return f"{key}={plain.removesuffix(END_OF_DOCUMENT).strip()}"
