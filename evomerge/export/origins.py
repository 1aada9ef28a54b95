"""Where the models of a recipe come from, in words that hold on every machine: hub ids, else the names of folders."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.paths import replace_path
from evomerge.recipes import ModelRef, Recipe, request_of

LOCAL = ("/", ".", "~")  # the beginnings of a path that is no hub id
CACHED = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([^/]+)/?$")  # a model in the cache of huggingface_hub


@dataclass(frozen=True)
class Origin:
    """A model or an adapter by itself; `name` is its hub id, or that of its folder where it is not on the hub."""

    path: str
    name: str
    revision: str | None
    is_on_hub: bool

    @property
    def anywhere(self) -> str:
        """The path in a recipe that holds on every machine; a file of a hub model keeps its name."""
        if self.is_on_hub and self.path.startswith(self.name):
            return self.path
        return f"{self.name}@{self.revision}" if self.is_on_hub and self.revision else self.name

    def as_dict(self) -> dict[str, str | None]:
        """The entry of reproduce.json."""
        return {"hub": self.name, "revision": self.revision} if self.is_on_hub else {"folder": self.name}


class Origins:
    """The origins of all bases, experts and adapters of a recipe and of its vocabulary."""

    def __init__(self, recipe: Recipe) -> None:
        found: dict[str, Origin] = {}
        for ref in (*recipe.models(), *request_of(recipe).models):
            found.setdefault(ref.path, _origin(ref.path, ref.revision))
            if ref.adapter:
                found.setdefault(ref.adapter, _origin(ref.adapter, ref.adapter_revision))
        self._found = {path: _distinct(one, found) for path, one in found.items()}

    def __iter__(self) -> Iterator[Origin]:
        return iter(self._found.values())

    def of(self, ref: ModelRef) -> tuple[Origin, ...]:
        """The origin of a model, then that of its adapter, if it has one."""
        return tuple(self._found[path] for path in (ref.path, ref.adapter) if path)

    def name(self, ref: ModelRef) -> str:
        """The model in the form of a recipe, with names in place of folders."""
        parts = (o.name + (f"@{o.revision}" if o.is_on_hub and o.revision else "") for o in self.of(ref))
        return "+".join(parts)

    def hub_ids(self) -> list[str]:
        """The hub ids, each once, in the order of the recipe."""
        return list(dict.fromkeys(one.name for one in self._found.values() if one.is_on_hub))

    def text(self, text: str) -> str:
        """A text, such as that of a recipe, with names in place of the models' folders on this machine."""
        for path, one in sorted(self._found.items(), key=lambda pair: -len(pair[0])):
            if one.anywhere != path:
                text = replace_path(text, path, one.anywhere)
        return text

    def value(self, value: Any) -> Any:
        """A value of a configuration, with names in place of all absolute paths, those of other files too."""
        if isinstance(value, Mapping):
            return {self.value(key): self.value(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(entry) for entry in value]
        return "+".join(map(self._part, value.split("+"))) if isinstance(value, str) else value

    def _part(self, part: str) -> str:
        if part in self._found:
            return self._found[part].anywhere
        return Path(part).name if os.path.isabs(part) else part


def _origin(path: str, revision: str | None) -> Origin:
    if cached := CACHED.search(path):
        return Origin(path, f"{cached[1]}/{cached[2]}", cached[3], True)
    if Path(path).exists() or path.startswith(LOCAL):  # also a folder of another machine, or one deleted since
        return Origin(path, Path(path).resolve().name, None, False)
    return Origin(path, "/".join(path.split("/")[:2]), revision, True)


def _distinct(one: Origin, others: Mapping[str, Origin]) -> Origin:
    """The origin with the folder above in its name, where another local model has the same name."""
    if one.is_on_hub or sum(other.name == one.name for other in others.values()) == 1:
        return one
    return Origin(one.path, "/".join(Path(one.path).resolve().parts[-2:]), None, False)
