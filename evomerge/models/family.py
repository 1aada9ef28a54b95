"""A base and its experts, opened and checked against one another from headers and configurations alone."""

from collections.abc import Iterable, Iterator
from functools import cached_property

from evomerge.errors import ConfigError, ExpertError
from evomerge.kernels import Update
from evomerge.models.adapter import Adapter, is_adapter
from evomerge.models.adapter_expert import AdapterExpert
from evomerge.models.checkpoint import fetch, read_json
from evomerge.models.experts import Base, FullExpert, listed, open_stored
from evomerge.models.groups import Layout
from evomerge.models.stored import Stored
from evomerge.recipes import ModelRef

Expert = FullExpert | AdapterExpert


class Family:
    """The models of a search or a recipe: one base, experts by reference, every one of them known to fit.

    Raises ExpertError with one line per expert that does not fit; no weight is read.
    """

    def __init__(self, base: ModelRef, experts: Iterable[ModelRef], trust_remote_code: bool = False) -> None:
        self.ref = ModelRef(base.path, base.revision)  # a base with an adapter is one more expert on this
        refs = [ref for ref in dict.fromkeys([base, *experts]) if ref != self.ref]
        _refuse(_other_architectures(self.ref, refs))
        stored = open_stored(fetch(base.path, base.revision), trust_remote_code)
        self.experts: dict[ModelRef, Expert] = {ref: _open(ref, self.ref, stored, trust_remote_code) for ref in refs}
        aliases = stored.skeleton.aliases
        separate = stored.separate(aliases).union(*(expert.separate(aliases) for expert in self.experts.values()))
        self.base = Base(stored, separate, trust_remote_code)
        _refuse(
            f"{ref} does not fit the base {base}: {listed(problems)}"
            for ref, expert in self.experts.items()
            if (problems := expert.problems(self.base))
        )

    @cached_property
    def layout(self) -> Layout:
        """The stacks and depths of the mergeable tensors."""
        return Layout(self.base.parameter, self.base.parameter)

    def update(self, ref: ModelRef, name: str) -> Update:
        """What a model brings to the base's tensor `name`; the base itself brings nothing new."""
        return None if ref == self.ref else self.experts[ref].update(self.base.destination[name])

    def nbytes(self, name: str) -> int:
        """Bytes that all models together bring to the base's tensor `name`."""
        place = self.base.destination[name]
        return self.base.nbytes(name) + sum(expert.nbytes(place) for expert in self.experts.values())

    def refuse_full(self, refs: Iterable[ModelRef], method: str) -> None:
        """ConfigError for an expert that is no adapter of this base, which a method of adapters cannot merge."""
        for ref in refs:
            if ref != self.ref and not (ref.adapter and ModelRef(ref.path, ref.revision) == self.ref):
                raise ConfigError(f"{ref}: {method} merges LoRA adapters of the base only; give one, or another method")

    def touched(self, ref: ModelRef) -> frozenset[str]:
        """The tensors in which the expert differs from the base as far as its headers tell."""
        expert = self.experts[ref]
        return frozenset(name for name, place in self.base.destination.items() if expert.touches(place))

    def dtypes(self) -> set[str]:
        """The safetensors dtypes of the base and the full experts, from one tensor of each."""
        name, place = next(iter(self.base.destination.items()))
        full = (expert for expert in self.experts.values() if isinstance(expert, FullExpert))
        return {self.base.dtype(name), *(dtype for expert in full if (dtype := expert.dtype(place)))}

    def trained_on(self, ref: ModelRef) -> str | None:
        """The base that an adapter says it was trained on; None for a full checkpoint or an adapter that is silent."""
        expert = self.experts[ref]
        return expert.adapter.base_model if isinstance(expert, AdapterExpert) else None

    def hashes(self) -> dict[str, str]:
        """Model → SHA-256 of its weight files; reads all of them once."""
        found = {str(self.ref): self.base.checkpoint.sha256}
        return found | {str(ref): expert.sha256() for ref, expert in self.experts.items()}


def expert_ref(text: str, base: ModelRef) -> ModelRef:
    """The reference of an expert as a user writes it; an adapter alone is one on the search's base."""
    ref = pinned(ModelRef.parse(text))
    if ref.adapter or not is_adapter(fetch(ref.path, ref.revision, weights=False)):
        return ref
    return ModelRef(base.path, base.revision, ref.path, ref.revision)


def pinned(ref: ModelRef) -> ModelRef:
    """The same model with hub revisions resolved to commits, so that a recipe means the same tomorrow."""
    revision = _commit(ref.path, ref.revision)
    return ModelRef(ref.path, revision, ref.adapter, ref.adapter and _commit(ref.adapter, ref.adapter_revision))


def _commit(path: str, revision: str | None) -> str | None:
    folder = fetch(path, revision, weights=False)
    return folder.name if folder.parent.name == "snapshots" else revision


def _open(ref: ModelRef, root: ModelRef, base: Stored, trust_remote_code: bool) -> Expert:
    own = ModelRef(ref.path, ref.revision)
    folder = fetch(ref.path, ref.revision)
    origin = None if own == root else FullExpert(open_stored(folder, trust_remote_code, base))
    if ref.adapter:
        return AdapterExpert(Adapter(fetch(ref.adapter, ref.adapter_revision)), base, origin)
    assert origin is not None
    return origin


def _refuse(lines: Iterable[str]) -> None:
    """One error for everything that is wrong, a line for each expert."""
    if found := "\n".join(lines):
        raise ExpertError(found)


def _other_architectures(base: ModelRef, experts: Iterable[ModelRef]) -> Iterator[str]:
    """A line for each expert of another architecture, from configurations alone, before a weight file is downloaded."""
    theirs = read_json(fetch(base.path, base.revision, weights=False) / "config.json")
    for ref in experts:
        if (ref.path, ref.revision) == (base.path, base.revision):
            continue
        folder = fetch(ref.path, ref.revision, weights=False)
        if is_adapter(folder):
            raise ExpertError(f"{ref}: a LoRA adapter without its base; write it as {base}+{ref}")
        mine = read_json(folder / "config.json")
        if mine.get("model_type") != theirs.get("model_type"):
            kinds = f"{mine.get('model_type')}, not {theirs.get('model_type')}"
            yield f"{ref} does not fit the base {base}: its architecture is {kinds}"
