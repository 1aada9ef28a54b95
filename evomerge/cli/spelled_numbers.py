"""Numbers that Hydra and OmegaConf would change without a word: 017 → 15, 1_000 → 1000, 1:30 → 90."""

import os
from collections.abc import Mapping
from pathlib import Path

from evomerge.errors import ConfigError
from evomerge.parsing import changed_number, dump_yaml, parse_yaml

END_OF_DOCUMENT = "...\n"  # after a single value


def refuse_changed_numbers(choices: Mapping[str, str | None]) -> None:
    """ConfigError for such a number in a file of the user's conf/ folder; `choices` are the chosen names by group."""
    for group, name in choices.items():
        path = Path(os.environ.get("EVOMERGE_CONF", "conf")) / group / f"{name}.yaml"
        text = path.read_text(encoding="utf-8", errors="replace") if name and path.is_file() else ""
        if spelled := changed_number(text):
            raise ConfigError(f"{path}: {spelled}: write the number in decimal digits, or a text in quotes")


def plain_override(text: str) -> str:
    """The override `key=value` with the value as OmegaConf reads it the same; ConfigError if it is not YAML."""
    key, _, value = text.partition("=")
    try:
        plain = dump_yaml(parse_yaml(value), default_flow_style=True, width=10**6, allow_unicode=True)
    except ValueError as error:
        raise ConfigError(f"{key}: not YAML ({error})") from None
    return f"{key}={plain.removesuffix(END_OF_DOCUMENT).strip()}"
