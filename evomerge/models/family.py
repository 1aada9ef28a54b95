"""A base and its experts, opened and checked for compatibility from headers and configurations alone."""

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import ConfigError, ExpertError, SeveralExpertsError
from evomerge.kernels import Factors, Update
from evomerge.models.adapter import Adapter, is_adapter
from evomerge.models.adapter_expert import AdapterExpert
from evomerge.models.auto_classes import model_config
from evomerge.models.base import Base, summary_line
from evomerge.models.checkpoint import fetch, itemsize, read_json
from evomerge.models.dequantised import DequantisedCheckpoint, complete, plain_folder
from evomerge.models.family_vocabulary import find_vocabulary
from evomerge.models.file_stamps import FileStamps
from evomerge.models.full_expert import FullExpert, open_stored
from evomerge.models.gguf_file import is_gguf
from evomerge.models.groups import Layout
from evomerge.models.live_model import load_model, load_tokenizer
from evomerge.models.stored import StoredModel
from evomerge.models.stored_inputs import StoredInput
from evomerge.models.vocabulary import Vocabulary
from evomerge.models.vocabulary_tensors import resize, row_count, set_token_ids
from evomerge.recipes import ModelRef, Recipe, TokenizerRequest

log = logging.getLogger(__name__)

Expert = FullExpert | AdapterExpert


class Family:
    """The models of a search or a recipe: one base and its experts by reference, all compatible with the base.

    Raises ExpertError with one line per expert that does not fit. Reads no weights, except to compare tied tensors.
    `request` asks for a merged vocabulary; without one the base's vocabulary is kept. `vocabulary` is None where all
    models have the same rows: tensors are then those of the files. Else all tensors have the merged rows.
    """

    def __init__(
        self,
        base: ModelRef,
        experts: Iterable[ModelRef],
        trust_remote_code: bool = False,
        request: TokenizerRequest | None = None,
    ) -> None:
        self.ref = ModelRef(base.path, base.revision)  # a base with an adapter is an additional expert
        refs = [ref for ref in dict.fromkeys([base, *experts]) if ref != self.ref]
        _raise_problems(_other_architectures(self.ref, refs))
        stored = open_stored(_plain(base), trust_remote_code)
        self.experts: dict[ModelRef, Expert] = {ref: _open(ref, self.ref, stored, trust_remote_code) for ref in refs}
        aliases = stored.skeleton.aliases
        untied = stored.untied(aliases).union(*(expert.untied(aliases) for expert in self.experts.values()))
        self.base = Base(stored, untied, trust_remote_code)
        self.vocabulary = find_vocabulary(self.ref, self.base, self.experts, request)
        axes = self.vocabulary.axes if self.vocabulary else {}
        _raise_problems(
            f"{ref} does not fit the base {base}: {summary_line(problems)}"
            for ref, expert in self.experts.items()
            if (problems := expert.problems(self.base, axes))
        )
        self._stamps = FileStamps(
            path for model in (stored.checkpoint, *self.experts.values()) for path in model.weight_files()
        )
        if self.vocabulary:
            self.base = self._with_rows(self.base, self.vocabulary)

    @cached_property
    def layout(self) -> Layout:
        """The layer stacks and relative depths of the mergeable tensors."""
        return Layout(self.base.parameter, self.base.parameter)

    def update(self, ref: ModelRef, name: str) -> Update:
        """A model's update of the base's tensor `name`; None for the base itself."""
        if ref == self.ref:
            return None
        place = self.base.destination[name]
        update = self.experts[ref].update(place)
        if self.vocabulary is None or place.path not in self.vocabulary.axes:
            return update
        if update is None and self.vocabulary.plan.is_like(ref, self.ref):
            return None
        if isinstance(update, Factors) and self.vocabulary.keeps(ref) and self.vocabulary.keeps(self.ref):
            return update
        return self.vocabulary.table(ref, place.path, lambda model: self._stored_table(model, name))

    def dense(self, ref: ModelRef, name: str) -> Tensor:
        """A model's own tensor `name`: in fp32 where an adapter's factors change it, else in its dtype, not a copy."""
        update = self.update(ref, name)
        return update if isinstance(update, Tensor) else _sum(self.base.tensor(name), update)

    def load_model(self, *, dtype: str, device: str = "cpu", attn_implementation: str | None = None) -> PreTrainedModel:
        """The base's model in eval mode, with the parameters and the rows that recipes of this family write."""
        return load_model(
            self.base.folder,
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            trust_remote_code=self.base.trust_remote_code,
            untied=self.base.untied,
            resize=self._resize if self.vocabulary else None,
        )

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the merged models; ExpertError if the base has none."""
        if self.vocabulary and self.vocabulary.tokenizer:
            return copy.deepcopy(self.vocabulary.tokenizer)
        return load_tokenizer(self.base.folder, self.base.trust_remote_code)

    def row_counts(self) -> dict[ModelRef, int]:
        """The rows of each model where all have the same, by the base's configuration."""
        config = model_config(self.base.folder, self.base.trust_remote_code)
        return dict.fromkeys((self.ref, *self.experts), row_count(config, self.base.folder))

    def log_notes(self) -> None:
        """Warn of rows of experts that are left out, or that are the base's."""
        for note in self.vocabulary.notes if self.vocabulary else ():
            log.warning(note)

    def _resize(self, model: PreTrainedModel) -> None:
        assert self.vocabulary
        resize(model, self.base.folder, self.vocabulary.plan.size)
        set_token_ids(model, self.vocabulary.token_ids)

    def _stored_table(self, ref: ModelRef, name: str) -> Tensor:
        """A model's dense tensor with the rows of its own files."""
        update = None if ref == self.ref else self.experts[ref].update(self.base.destination[name])
        return update if isinstance(update, Tensor) else _sum(self.base.stored_tensor(name), update)

    def _with_rows(self, base: Base, vocabulary: Vocabulary) -> Base:
        def computed(name: str, path: str) -> Callable[[], Tensor]:
            return lambda: vocabulary.table(self.ref, path, lambda model: self._stored_table(model, name))

        paths = {name: path for name, path in base.parameter.items() if path in vocabulary.axes}
        shapes = {path: vocabulary.shape(path, base.skeleton.shape(path)) for path in vocabulary.axes}
        kept = {path: shape for path, shape in shapes.items() if path in base.skeleton.parameters}
        return base.with_rows(kept, {name: computed(name, path) for name, path in paths.items()})

    def is_computed(self, ref: ModelRef, name: str) -> bool:
        """Whether a dense update of the base's tensor `name` is a new tensor, not one of a file."""
        return ref != self.ref and self.experts[ref].is_computed(self.base.destination[name])

    def stored_input(self, ref: ModelRef, name: str) -> StoredInput:
        """How a program without this package gets a model's update of the base's tensor `name` from the files."""
        place = self.base.destination[name]
        if self.vocabulary and place.path in self.vocabulary.axes:
            return "computed"
        return "base" if ref == self.ref else self.experts[ref].stored_input(place)

    def nbytes(self, name: str) -> int:
        """Bytes of the tensor `name` in all models together."""
        place = self.base.destination[name]
        if self.vocabulary and place.path in self.vocabulary.axes:
            refs = (self.ref, *(ref for ref in self.experts if name in self.touched(ref)))
            return math.prod(self.base.shape(name)) * sum(self._table_itemsize(ref, name) for ref in refs)
        return self.base.nbytes(name) + sum(expert.nbytes(place) for expert in self.experts.values())

    def _table_itemsize(self, ref: ModelRef, name: str) -> int:
        """Bytes of a value in a model's table: means of rows, and the sums of an adapter with its base, are in fp32."""
        assert self.vocabulary
        expert, place = self.experts.get(ref), self.base.destination[name]
        if isinstance(expert, AdapterExpert) or self.vocabulary.plan.needs_float32(ref):
            return torch.float32.itemsize
        return itemsize((expert and expert.dtype(place)) or self.base.dtype(name))

    def refuse_full_checkpoints(self, refs: Iterable[ModelRef], method: str) -> None:
        """ConfigError for an expert that is not an adapter of this base, if `method` merges only adapters."""
        for ref in refs:
            if ref != self.ref and not (ref.adapter and ModelRef(ref.path, ref.revision) == self.ref):
                raise ConfigError(f"{ref}: {method} merges LoRA adapters of the base only; give one, or another method")

    def touched(self, ref: ModelRef) -> frozenset[str]:
        """The names of the tensors that the expert may change, from headers alone."""
        expert, other = self.experts[ref], self.vocabulary
        moved = other.axes if other and not other.plan.is_like(ref, self.ref) else {}
        places = self.base.destination.items()
        return frozenset(name for name, place in places if expert.touches(place) or place.path in moved)

    def dtypes(self) -> set[str]:
        """The safetensors dtypes of the base and of the full checkpoints, from one tensor of each."""
        name, place = next(iter(self.base.destination.items()))
        full = (expert for expert in self.experts.values() if isinstance(expert, FullExpert))
        return {self.base.dtype(name), *(dtype for expert in full if (dtype := expert.dtype(place)))}

    def trained_on(self, ref: ModelRef) -> str | None:
        """The base model named in an adapter's configuration; None for a full checkpoint, or if none is named."""
        expert = self.experts[ref]
        return expert.adapter.base_model if isinstance(expert, AdapterExpert) else None

    def folders(self) -> tuple[Path, ...]:
        """The folder of each model's weights, the base first."""
        experts = self.experts.values()
        stored = (e.adapter.folder if isinstance(e, AdapterExpert) else e.checkpoint.source_folder for e in experts)
        return (self.base.checkpoint.source_folder, *stored)

    @cached_property
    def dequantised(self) -> dict[str, DequantisedCheckpoint]:
        """Model without its adapter → its checkpoint, for each model that is quantised."""
        found = {str(self.ref): self.base.checkpoint}
        for ref, expert in self.experts.items():
            full = expert if isinstance(expert, FullExpert) else expert.origin
            found |= {str(ModelRef(ref.path, ref.revision)): full.checkpoint} if full else {}
        return {name: each for name, each in found.items() if isinstance(each, DequantisedCheckpoint)}

    def dequantise(self) -> None:
        """Make the plain copies that are not there yet; RunError if the disk has too little room."""
        for each in self.dequantised.values():
            complete(each.folder)

    def with_dequantisation(self, recipe: Recipe) -> Recipe:
        """The recipe with a note for each quantised model: its format, the SHA-256 of its files, and the dtype."""
        notes = {
            name: {"format": each.origin.format, "sha256": each.source_sha256, "dtype": each.origin.dtype}
            for name, each in self.dequantised.items()
        }
        return recipe.with_notes({**recipe.notes, "dequantised": notes}) if notes else recipe

    def refuse_changed_files(self) -> None:
        """RunError if a weight file was changed, replaced or removed since this family was opened."""
        self._stamps.refuse_changed()

    def hashes(self) -> dict[str, str]:
        """Model → SHA-256 of its weight files; reads all of them once."""
        hashes = {str(self.ref): self.base.checkpoint.sha256}
        return hashes | {str(ref): expert.sha256() for ref, expert in self.experts.items()}


def _open(ref: ModelRef, root: ModelRef, base: StoredModel, trust_remote_code: bool) -> Expert:
    is_root = ModelRef(ref.path, ref.revision) == root
    origin = None if is_root else FullExpert(open_stored(_plain(ref), trust_remote_code, base))
    if ref.adapter:
        return AdapterExpert(Adapter(fetch(ref.adapter, ref.adapter_revision)), base, origin)
    assert origin is not None
    return origin


def _plain(ref: ModelRef) -> Path:
    """The folder of the model without its adapter, of the plain copy if it is quantised."""
    return plain_folder(fetch(ref.path, ref.revision))


def _sum(weight: Tensor, update: Factors | None) -> Tensor:
    return weight if update is None else update.delta().add_(weight)


def _raise_problems(lines: Iterable[str]) -> None:
    """ExpertError with all lines, one for each expert that does not fit, if there are any."""
    if message := "\n".join(str(ExpertError(line)) for line in lines):
        raise SeveralExpertsError(message)


def _other_architectures(base: ModelRef, experts: Iterable[ModelRef]) -> Iterator[str]:
    """A line for each expert of another architecture, from configurations, before weights are downloaded."""
    base_type = _model_type(fetch(base.path, base.revision, weights=False))
    for ref in experts:
        if (ref.path, ref.revision) == (base.path, base.revision):
            continue
        folder = fetch(ref.path, ref.revision, weights=False)
        if is_adapter(folder):
            raise ExpertError(f"{ref}: a LoRA adapter without its base; write it as {base}+{ref}")
        if (model_type := _model_type(folder)) != base_type:
            types = f"{model_type}, not {base_type}"
            yield f"{ref} does not fit the base {base}: its architecture is {types}"


def _model_type(folder: Path) -> str | None:
    return read_json((plain_folder(folder) if is_gguf(folder) else folder) / "config.json").get("model_type")
