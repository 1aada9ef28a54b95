"""The experiment file that holds every choice, with its reason: valid for Hydra's +experiment=NAME and as a file."""

from collections.abc import Mapping
from typing import Any

from evomerge.parsing import dump_yaml

HEADER = """# @package _global_
# Chosen by evomerge. Every value may be edited. To run it in another folder:
#   evomerge {path} --out OTHER_DIR
# In conf/experiment/{name}.yaml it is +experiment={name}.
"""
PRESETS = ("optimizer", "pool", "rules")  # groups whose preset has the name
WIDTH = 10**6  # PyYAML breaks longer lines


def experiment_text(config: Mapping[str, Any], reasons: Mapping[str, str], name: str, path: str) -> str:
    """The file's text: a header, the presets of optimizer, pool and rules, then each section below its reason."""
    lines = [HEADER.format(name=name, path=path), "defaults:"]
    for group in (group for group in PRESETS if group in config):
        lines.append(f"  - override /{group}: {config[group]['name']}")
    for key, value in config.items():
        if key in reasons:
            lines.append(f"# {reasons[key]}")
        if key in PRESETS:  # `pool=ray` on the command line could not replace a name that stands here
            value = {name: part for name, part in value.items() if name != "name"}
        if value or key not in PRESETS:
            lines.append(_section(key, value))
    return "\n".join(lines) + "\n"


def _section(key: str, value: Any) -> str:
    """A section in one line; experts and tasks have a line each."""
    if key == "scorer":
        inner = {name: part for name, part in value.items() if name != "tasks"}
        tasks = "\n".join(f"    - {_flow(task)}" for task in value["tasks"])
        return "\n".join(["scorer:", *(f"  {name}: {_flow(part)}" for name, part in inner.items()), "  tasks:", tasks])
    if key == "experts":
        return "\n".join(["experts:", *(f"  {_flow(label)}: {_flow(path)}" for label, path in value.items())])
    return f"{key}: {_flow(value)}"


def _flow(value: Any) -> str:
    text = dump_yaml(value, default_flow_style=True, sort_keys=False, width=WIDTH, allow_unicode=True)
    return text.removesuffix("...\n").strip()
