"""The only writer of weights: it merges a recipe into a live model in place, or yields the merged tensors for export.

Every tensor is computed from the base in fp32 and rounded once when it is written. Search and export share this code.
"""

import math
from collections.abc import Container, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evomerge import kernels, methods
from evomerge.errors import CandidateError
from evomerge.kernels import Coefficients, LazyUpdate, LinComb, Runner, Sources, Update
from evomerge.merging.live_tensors import Copied, FixedTensors, LiveTensors
from evomerge.merging.placement import Placement
from evomerge.merging.prepared import Prepared, digest
from evomerge.merging.router_file import read_routers
from evomerge.merging.tensor_plan import InputTensor, TensorPlan, base_layers, output_layers, plan
from evomerge.models import COMPONENTS, ROUTER, Family, Place, layer_of
from evomerge.recipes import Recipe, TensorFile

# Numbers of parameters from which the compile time pays off within about thirty candidates: a compiled sum is five
# times as fast as in eager mode, a compiled elementwise rule forty times.
COMPILE_SUMS, COMPILE_RULES = 30_000_000, 8_000_000
AS_STORED = LinComb(base=1.0, experts=())
MAX_TABLE_BYTES = 2_000_000_000  # of embeddings and heads with merged rows that are kept in memory by each worker
MAX_SETUPS = 32  # cached sets of models with their prepared tensors: a search over subsets of experts has many


@dataclass(frozen=True)
class TensorMerge:
    """The merge of one tensor of a recipe: its inputs and its coefficients.

    With `from_file`, the setup's base is a tensor of the recipe's file of routers instead of the plan's.
    """

    plan: TensorPlan
    setup: methods.Setup
    coefficients: Coefficients
    from_file: bool = False

    @property
    def name(self) -> str:
        """The name of the output tensor."""
        return self.plan.name

    @property
    def copied(self) -> Copied | None:
        """The model and its tensor that the output is a copy of; None if something is computed."""
        found = self.coefficients
        if self.from_file or not isinstance(found, LinComb) or found.directions:
            return None
        inputs = zip((self.plan.base, *self.plan.experts), ("weight", *self.setup.sources.kinds), strict=True)
        read = [entry for entry in zip(inputs, (found.base, *found.experts), strict=True) if entry[1]]
        if len(read) != 1 or read[0][1] != 1.0:
            return None
        (source, kind), _ = read[0]
        return Copied(source.model, source.name, kind)

    @property
    def identity(self) -> object:
        """A value that is equal for merges which write the same bytes."""
        return self.copied or (self.setup, self.coefficients)


@dataclass
class _Written:
    """A live model, its tensors, and what each storage of it contains."""

    model: nn.Module | FixedTensors
    tensors: LiveTensors | FixedTensors
    contents: dict[Hashable, object] = field(default_factory=dict)


class Materializer:
    """Merges recipes of one family on one device; tensors that do not depend on the genes are prepared once.

    With `compiled` None, passes are compiled if the model is large enough; the bytes are the same. `prepared` is the
    folder for the prepared tensors; None keeps them in memory. With `resident`, layers that recipes only copy stay in
    memory, so that candidates which reorder them write nothing.
    """

    def __init__(
        self,
        family: Family,
        device: str = "cpu",
        *,
        compiled: bool | None = None,
        placement: Placement | None = None,
        prepared: Path | None = None,
        resident: bool = False,
    ) -> None:
        self.family = family
        self.device = torch.device(device)
        size = sum(torch.Size(shape).numel() for shape in family.base.skeleton.parameters.values())
        self.runner = Runner(size >= COMPILE_SUMS if compiled is None else compiled)
        self._rules = Runner(size >= COMPILE_RULES if compiled is None else compiled)
        self._placement = placement or Placement("mmap", self.device)
        self._prepared = Prepared(prepared)
        self._setups: dict[Any, list[methods.Setup]] = {}
        self._placed_updates: dict[Any, LazyUpdate] = {}
        self._calibrated: tuple[TensorFile | None, Mapping[str, methods.Setup]] = (None, {})
        self._resident = resident
        self._tables: dict[Any, Tensor] = {}  # embeddings and heads with merged rows: the first of the search
        self._live: list[_Written] = []  # the models that candidates were written into
        self._scratch = torch.empty(0, device=self.device)

    def tensor_merges(self, recipe: Recipe) -> Iterator[TensorMerge]:
        """Every output tensor with its inputs and coefficients, in order; nothing is merged yet."""
        method, entries, setups = self._merge(recipe)
        routers = self._routers(recipe, {entry.name for entry in entries})
        for entry, setup in zip(entries, setups, strict=True):
            if entry.name in routers:
                yield TensorMerge(entry, routers[entry.name], AS_STORED, from_file=True)
                continue
            self._ensure_prepared(method, recipe, entry, setup)
            yield TensorMerge(entry, setup, method.coefficients(setup, entry.genes))

    def prepare(self, recipe: Recipe) -> Iterator[tuple[int, int]]:
        """Prepare all tensors for recipes of this method and these models; yields (tensors done, tensors)."""
        method, entries, setups = self._merge(recipe)
        for done, (entry, setup) in enumerate(zip(entries, setups, strict=True), 1):
            self._ensure_prepared(method, recipe, entry, setup)
            yield done, len(entries)

    @torch.no_grad()
    def tensors(self, recipe: Recipe, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, Tensor]]:
        """Yield every merged tensor with its output name, on the host; CandidateError if one is not finite.

        Banks and tables that are only in memory are released after their tensor, because each is used once.
        """
        for merge in self.tensor_merges(recipe):
            (sources,) = self._placement.stream([merge.setup.sources])
            out = torch.empty(sources.shape, dtype=dtype, device=self.device)
            flag = kernels.apply(merge.coefficients, sources, out, self._runner(merge))
            _refuse_non_finite([merge.name], [flag], dtype)
            yield merge.name, out.cpu()
            self._tables.clear()
            if self._prepared.in_memory:
                merge.setup.sources.release_banks()

    @torch.no_grad()
    def write(self, recipe: Recipe, model: nn.Module | FixedTensors) -> None:
        """Write the merged tensors into the live model; CandidateError if a parameter is missing or not finite.

        A tensor is skipped if the previous candidate that this materializer wrote into this model had the same
        coefficients for it.
        """
        live = self._live_of(model)
        merges = list(self.tensor_merges(recipe))
        order = None if output_layers(recipe) is None else base_layers(recipe)
        targets = live.tensors.targets(order, [(merge.name, merge.copied) for merge in merges])
        written, live.contents = live.contents, {}  # after a failed write the contents of the model are unknown
        contents = {targets[merge.name].key: merge for merge in merges}
        changed = {key: merge for key, merge in contents.items() if written.get(key) != merge.identity}
        places = [targets[merge.name].place for merge in changed.values()]
        streamed = self._placement.stream(merge.setup.sources for merge in changed.values())
        flags = [
            self._write(merge, sources, place)
            for merge, place, sources in zip(changed.values(), places, streamed, strict=True)
        ]
        if flags:
            _refuse_non_finite([merge.name for merge in changed.values()], flags, places[0].dtype)
        live.contents = written | {key: merge.identity for key, merge in contents.items()}

    def live_tensors(self, model: nn.Module | FixedTensors) -> Mapping[str, Place]:
        """Output name → its place, as the last `write` has left this model."""
        found = next((live for live in self._live if live.model is model), None)
        if found is None:
            raise CandidateError("nothing has been written into this model")
        return found.tensors.places()

    def _live_of(self, model: nn.Module | FixedTensors) -> _Written:
        found = next((live for live in self._live if live.model is model), None)
        if found is None:
            fixed = isinstance(model, FixedTensors)
            tensors = model if isinstance(model, FixedTensors) else LiveTensors(self.family, model, self._resident)
            found = _Written(model, tensors)
            # One of each kind: a worker's live model, and the parameters of an engine beside it.
            self._live = [*(live for live in self._live if isinstance(live.model, FixedTensors) != fixed), found]
        return found

    def _write(self, merge: TensorMerge, sources: Sources, place: Place) -> Tensor:
        """Merge one tensor into its place, by way of one reused buffer if that is not one contiguous view."""
        if (view := place.direct) is not None:
            return kernels.apply(merge.coefficients, sources, view, self._runner(merge))
        size = math.prod(place.shape)
        if self._scratch.numel() < size or self._scratch.dtype != place.dtype:
            self._scratch = torch.empty(size, dtype=place.dtype, device=self.device)
        out = self._scratch[:size].view(place.shape)
        flag = kernels.apply(merge.coefficients, sources, out, self._runner(merge))
        place.copy_(out)
        return flag

    def _runner(self, merge: TensorMerge) -> Runner:
        return self._rules if isinstance(merge.coefficients, kernels.Consensus) else self.runner

    def invalidate(self) -> None:
        """Write every tensor at the next `write`, because other code may have changed the model."""
        for live in self._live:
            live.contents = {}

    def _merge(self, recipe: Recipe) -> tuple[methods.Method, list[TensorPlan], list[methods.Setup]]:
        """The recipe's method, plan and setups; the setups are shared by all recipes of the same method and models."""
        method, entries = methods.load(recipe.method), plan(recipe, self.family.layout)
        sources = tuple((part.base, *((s.model, s.layers) for s in part.sources)) for part in recipe.slices)
        key = (recipe.method, recipe.seed, tuple(recipe.options.items()), recipe.base, sources)
        if key not in self._setups:
            if methods.adapters_only(method):
                self.family.refuse_full_checkpoints(recipe.models(), recipe.method)
            if len(self._setups) >= MAX_SETUPS:
                del self._setups[next(iter(self._setups))]
            options = methods.choose_options(recipe.method, recipe.options)
            all_sources = [self._sources(entry) for entry in entries]
            whole = methods.WholeModel(lambda: self._placement.stream(all_sources))
            self._setups[key] = [
                methods.Setup(source, options, recipe.seed, recipe.base is not None, self._depth(entry.name), whole)
                for source, entry in zip(all_sources, entries, strict=True)
            ]
        return method, entries, self._setups[key]

    def _routers(self, recipe: Recipe, names: Container[str]) -> Mapping[str, methods.Setup]:
        """Calibrated router → the setup that writes it; they are read once for each file."""
        if recipe.routers is None:
            return {}
        if self._calibrated[0] != recipe.routers:
            found = read_routers(recipe.routers)
            for name, tensor in found.items():
                is_router = name in names and any(text in name for text in COMPONENTS[ROUTER])
                if not is_router or tuple(tensor.shape) != self.family.base.shape(name):
                    raise CandidateError(f"{recipe.routers.path}: {name} is no router of {self.family.ref}")
            sources = {name: Sources(name, tensor, (), self.device) for name, tensor in found.items()}
            self._calibrated = (recipe.routers, {name: methods.Setup(source) for name, source in sources.items()})
        return self._calibrated[1]

    def _depth(self, name: str) -> float | None:
        return self.family.layout.depth(name) if layer_of(name) else None

    def _ensure_prepared(self, method: methods.Method, recipe: Recipe, entry: TensorPlan, setup: methods.Setup) -> None:
        """Set the prepared tensors of one setup, from the cache or by calling the method's `prepare`."""
        if setup.sources.is_prepared:
            return
        seed = setup.seed if method.EXACTNESS == "distribution-only" else None
        models = [(str(source.model), source.name) for source in (entry.base, *entry.experts)]
        whole = [(str(part.base), [(str(s.model), s.layers) for s in part.sources]) for part in recipe.slices]
        key = digest(recipe.method, dict(setup.options), seed, str(recipe.base), whole, models)
        state = self._prepared.get(key, entry.name, lambda: self._prepare(method, setup))
        setup.sources.set_prepared(
            {
                name: self._placement.place_tensor(tensor) if name.startswith("bank.") else tensor
                for name, tensor in state.items()
            }
        )

    def _prepare(self, method: methods.Method, setup: methods.Setup) -> methods.State:
        state = method.prepare(setup)
        self.family.refuse_changed_files()  # the name of the stored state is that of the weights as they were
        return state

    def _sources(self, entry: TensorPlan) -> Sources:
        place = self.family.base.destination.get(entry.name)
        name = place.key if place else entry.name
        base = self._placed(entry.base, None)
        assert isinstance(base, Tensor) or callable(base)
        return Sources(name, base, [self._placed(expert, entry.base) for expert in entry.experts], self.device)

    def _placed(self, source: InputTensor, base: InputTensor | None) -> LazyUpdate:
        """An expert's update of `base`, or a model's own weight if `base` is None, on the device that placement chose.

        All methods and recipes share one copy. A dense weight that an adapter produces (DoRA, an adapter of another
        base or as base) is computed again for each use, because storing such weights would take a whole model in fp32.
        """
        key = (source.model, source.name, base and (base.model, base.name))
        if key not in self._placed_updates:
            update = self._update(source, base)
            is_computed = self.family.is_computed(source.model, source.name) and isinstance(update, Tensor)
            is_table = isinstance(update, Tensor) and self.family.base.has_merged_rows(source.name)
            placed: LazyUpdate
            if is_table and self._placement.mode == "mmap":
                placed = partial(self._table, key, source, base)
            else:
                placed = partial(self._weight, source, base) if is_computed else self._placement.place(update)
            self._placed_updates[key] = placed
        return self._placed_updates[key]

    def _table(self, key: Any, source: InputTensor, base: InputTensor | None) -> Tensor:
        """A table with merged rows: kept between candidates up to MAX_TABLE_BYTES, the others are computed again."""
        if key in self._tables:
            return self._tables[key]
        table = self._weight(source, base)
        if table.nbytes + sum(kept.nbytes for kept in self._tables.values()) <= MAX_TABLE_BYTES:
            self._tables[key] = table
        return table

    def _weight(self, source: InputTensor, base: InputTensor | None) -> Tensor:
        update = self._update(source, base)
        assert isinstance(update, Tensor)
        return update

    def _update(self, source: InputTensor, base: InputTensor | None) -> Update:
        """The tensor as an update of `base`: factors only if `base` is the family's base, else the dense weight."""
        if base and base.model == self.family.ref and base.name == source.name:
            return self.family.update(source.model, source.name)
        return self.family.dense(source.model, source.name)


def _refuse_non_finite(names: list[str], flags: list[Tensor], dtype: torch.dtype) -> None:
    """CandidateError for the first tensor that is not finite; one device synchronisation for all tensors."""
    non_finite = torch.stack(flags).nonzero()  # NaN counts as non-zero
    if len(non_finite):
        name = names[int(non_finite[0])]
        raise CandidateError(f"{name}: the merged tensor is not finite in {dtype}; look for NaN in the experts")
