"""The models that are judged: the base, each expert, and the base of an expert that has another one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evomerge.models import fetch
from evomerge.recipes import ModelRef
from evomerge.rules.hub_record import HubRecord, find_record

BASE = "base"


@dataclass(frozen=True)
class JudgedModel:
    """A folder or a hub model at a revision, by itself: an adapter without its base, a base without an adapter."""

    label: str
    path: str
    revision: str | None = None

    @cached_property
    def place(self) -> Path:
        """Its folder or GGUF file, of a hub model with the configuration only, unless the weights are there already."""
        return fetch(self.path, self.revision, weights=False)

    @property
    def folder(self) -> Path:
        """Its folder, or that of its file, where a model card and a licence may be."""
        return self.place if self.place.is_dir() else self.place.parent

    @cached_property
    def record(self) -> HubRecord | str:
        """What the hub says, or the reason why that is not known."""
        repository = self.path if self.is_local else "/".join(self.path.split("/")[:2])
        return find_record(repository, self.revision, self.folder)

    @property
    def is_local(self) -> bool:
        """Whether it was given as a folder or a file."""
        return Path(self.path).exists()


def judged_models(base: ModelRef, experts: Mapping[str, ModelRef]) -> Iterator[JudgedModel]:
    """Each model once, with the label of its first use; an adapter comes before a base of its own."""
    seen: set[tuple[str, str | None]] = set()
    for label, ref in {BASE: base, **experts}.items():
        places = [(label, ref.path, ref.revision)]
        if ref.adapter:
            of_base = BASE if label == BASE else f"base of {label}"
            own = "adapter of base" if label == BASE else label
            places = [(own, ref.adapter, ref.adapter_revision), (of_base, ref.path, ref.revision)]
        for name, path, revision in places:
            if (path, revision) not in seen:
                seen.add((path, revision))
                yield JudgedModel(name, path, revision)
