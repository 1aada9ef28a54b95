"""The only writer of weights: a recipe into a live model, tensor by tensor, or as a stream for export.

Every tensor is rebuilt from the base, in fp32, and rounded once at the write; search and export share this code.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evomerge import kernels, methods
from evomerge.errors import CandidateError
from evomerge.kernels import Coefficients, Factors, LazyUpdate, Runner, Sources, Update
from evomerge.merging.placement import Placement
from evomerge.merging.prepared import Prepared, digest
from evomerge.merging.tensor_plan import Input, TensorPlan, plan
from evomerge.models import Family, layer_of
from evomerge.recipes import Recipe

# Parameters from which a compiler's seconds come back within some thirty candidates: compiled, a sum is five times as
# fast as in blocks, an elementwise rule forty times.
COMPILE_SUMS, COMPILE_RULES = 30_000_000, 8_000_000
KEPT = 32  # sets of models whose prepared tables are kept; a search over subsets of many experts would keep all


@dataclass(frozen=True)
class Part:
    """One tensor of a candidate: what goes in, and the numbers that merge it."""

    plan: TensorPlan
    setup: methods.Setup
    coefficients: Coefficients

    @property
    def name(self) -> str:
        """The output's name."""
        return self.plan.name


class Materializer:
    """Builds recipes over one family on one device; what does not depend on the genes is prepared once and kept.

    `compiled` None compiles a pass where the model is large enough for that to pay; the bytes are the same.
    `prepared` is a folder for what methods prepare, None keeps it in memory.
    """

    def __init__(
        self,
        family: Family,
        device: str = "cpu",
        *,
        compiled: bool | None = None,
        placement: Placement | None = None,
        prepared: Path | None = None,
    ) -> None:
        self.family = family
        self.device = torch.device(device)
        size = sum(torch.Size(shape).numel() for shape in family.base.skeleton.parameters.values())
        self.runner = Runner(size >= COMPILE_SUMS if compiled is None else compiled)
        self._rules = Runner(size >= COMPILE_RULES if compiled is None else compiled)
        self._placement = placement or Placement("mmap", self.device)
        self._prepared = Prepared(prepared)
        self._setups: dict[Any, list[methods.Setup]] = {}
        self._places: dict[Any, LazyUpdate] = {}
        self._model: nn.Module | None = None
        self._outs: dict[str, Tensor] = {}
        self._held: dict[str, tuple[methods.Setup, Coefficients]] = {}

    def parts(self, recipe: Recipe) -> Iterator[Part]:
        """Every output tensor with its coefficients, in order; nothing is merged yet."""
        method, entries, setups = self._merge(recipe)
        for entry, setup in zip(entries, setups, strict=True):
            self._ready(method, recipe, entry, setup)
            genes = methods.Genes(entry.shared, tuple(e.values for e in entry.experts), entry.base.values)
            yield Part(entry, setup, method.coefficients(setup, genes))

    def prepare(self, recipe: Recipe) -> Iterator[tuple[int, int]]:
        """Prepare everything that recipes of this method and these models need; yields (tensors done, tensors)."""
        method, entries, setups = self._merge(recipe)
        for done, (entry, setup) in enumerate(zip(entries, setups, strict=True), 1):
            self._ready(method, recipe, entry, setup)
            yield done, len(entries)

    @torch.no_grad()
    def tensors(self, recipe: Recipe, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, Tensor]]:
        """Every merged tensor under its output name, one at a time, on the host; CandidateError where not finite.

        Banks that are in memory only are let go of after their tensor: a stream is read once.
        """
        for part in self.parts(recipe):
            (sources,) = self._placement.stream([part.setup.sources])
            out = torch.empty(sources.shape, dtype=dtype, device=self.device)
            flag = kernels.apply(part.coefficients, sources, out, self._runner(part))
            _refuse_non_finite([part.name], [flag], dtype)
            yield part.name, out.cpu()
            if self._prepared.in_memory:
                part.setup.sources.release_banks()

    @torch.no_grad()
    def write(self, recipe: Recipe, model: nn.Module) -> None:
        """Fill the live model's parameters in place; CandidateError where one is not written or not finite.

        Tensors that hold these coefficients already, from the last candidate that this materializer wrote into this
        model, are left alone.
        """
        if self._model is not model:
            self._model, self._held, self._outs = model, {}, self.family.base.live(model)
        parts = list(self.parts(recipe))
        outs = self._parameters([part.name for part in parts])
        held, self._held = self._held, {}  # a write that fails half-way leaves nothing that is known
        work = [part for part in parts if held.get(part.name) != (part.setup, part.coefficients)]
        flags = [
            _apply(part.coefficients, sources, outs[part.name], self._runner(part))
            for part, sources in zip(work, self._placement.stream(p.setup.sources for p in work), strict=True)
        ]
        if flags:
            _refuse_non_finite([part.name for part in work], flags, outs[work[0].name].dtype)
        self._held = {part.name: (part.setup, part.coefficients) for part in parts}

    def _runner(self, part: Part) -> Runner:
        return self._rules if isinstance(part.coefficients, kernels.Consensus) else self.runner

    def forget(self) -> None:
        """Take nothing for granted at the next write: somebody else may have written into the model."""
        self._held = {}

    def _parameters(self, names: list[str]) -> dict[str, Tensor]:
        """Output name → the storage of the live model that it fills."""
        if stacked := next((name for name in names if name not in self._outs), None):
            raise CandidateError(f"{stacked}: the live model has no such tensor; build stacked slices with `merge`")
        if left := self._outs.keys() - set(names):
            raise CandidateError(f"{min(left)}: the recipe writes no such parameter")
        return self._outs

    def _merge(self, recipe: Recipe) -> tuple[methods.Method, list[TensorPlan], list[methods.Setup]]:
        """The recipe's method and plan, and the setups of its tensors, which all recipes of its models share."""
        method, entries = methods.load(recipe.method), plan(recipe, self.family.layout)
        sources = tuple((part.base, *((s.model, s.layers) for s in part.sources)) for part in recipe.slices)
        key = (recipe.method, recipe.seed, tuple(recipe.options.items()), recipe.base, sources)
        if key not in self._setups:
            if methods.adapters_only(method):
                self.family.refuse_full(recipe.models(), recipe.method)
            if len(self._setups) >= KEPT:
                del self._setups[next(iter(self._setups))]
            options = methods.choose_options(recipe.method, recipe.options)
            held = [self._sources(entry) for entry in entries]
            whole = methods.WholeModel(lambda: self._placement.stream(held))
            self._setups[key] = [
                methods.Setup(one, options, recipe.seed, recipe.base is not None, self._depth(entry.name), whole)
                for one, entry in zip(held, entries, strict=True)
            ]
        return method, entries, self._setups[key]

    def _depth(self, name: str) -> float | None:
        return self.family.layout.depth(name) if layer_of(name) else None

    def _ready(self, method: methods.Method, recipe: Recipe, entry: TensorPlan, setup: methods.Setup) -> None:
        """Have what the method prepares for one tensor."""
        if setup.sources.is_prepared:
            return
        seed = setup.seed if method.EXACTNESS == "distribution-only" else None
        models = [(str(source.model), source.name) for source in (entry.base, *entry.experts)]
        whole = [(str(part.base), [(str(s.model), s.layers) for s in part.sources]) for part in recipe.slices]
        key = digest(recipe.method, dict(setup.options), seed, str(recipe.base), whole, models)
        state = self._prepared.get(key, entry.name, lambda: method.prepare(setup))
        setup.sources.set_prepared(
            {
                name: self._placement.place_tensor(tensor) if name.startswith("bank.") else tensor
                for name, tensor in state.items()
            }
        )

    def _sources(self, at: TensorPlan) -> Sources:
        name = self.family.base.parameter.get(at.name, at.name)
        base = self._placed(at.base, None)
        assert isinstance(base, Tensor) or callable(base)
        return Sources(name, base, [self._placed(expert, at.base) for expert in at.experts], self.device)

    def _placed(self, source: Input, base: Input | None) -> LazyUpdate:
        """A model's tensor where it stays: relative to `base`, or as it is; one copy for every method and recipe.

        A dense weight that an adapter makes (DoRA, an adapter of another base or as base) is made again for each use:
        kept, it would be a whole model in fp32.
        """
        key = (source.model, source.name, base and (base.model, base.name))
        if key not in self._places:
            update = self._update(source, base)
            made = source.model.adapter and isinstance(update, Tensor)
            self._places[key] = partial(self._weight, source, base) if made else self._placement.place(update)
        return self._places[key]

    def _weight(self, source: Input, base: Input | None) -> Tensor:
        update = self._update(source, base)
        assert isinstance(update, Tensor)
        return update

    def _update(self, source: Input, base: Input | None) -> Update:
        """The tensor relative to what stands as base: factors only where that is the family's base, else dense."""
        stored = self.family.base.tensor(source.name)
        update = self.family.update(source.model, source.name)
        if base and base.model == self.family.ref and base.name == source.name:
            return update
        if update is None:
            return stored
        return update.delta().add_(stored) if isinstance(update, Factors) else update


def _apply(coefficients: Coefficients, sources: Sources, parameter: Tensor, runner: Runner) -> Tensor:
    if parameter.is_contiguous():
        return kernels.apply(coefficients, sources, parameter, runner)
    out = torch.empty_like(parameter, memory_format=torch.contiguous_format)
    flag = kernels.apply(coefficients, sources, out, runner)
    parameter.copy_(out)
    return flag


def _refuse_non_finite(names: list[str], flags: list[Tensor], dtype: torch.dtype) -> None:
    """CandidateError for the first tensor that is not finite; one synchronisation for all of them."""
    found = torch.stack(flags).nonzero()  # NaN is not zero
    if len(found):
        name = names[int(found[0])]
        raise CandidateError(f"{name}: the merged tensor is not finite in {dtype}; look for NaN in the experts")


class Fingerprint:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, whatever the order they come in."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Take in one tensor."""
        data = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().data
        self._digests[name] = f"{hashlib.sha256(data).hexdigest()} {tensor.dtype} {tuple(tensor.shape)}"

    def hexdigest(self) -> str:
        """64 hex digits for everything taken in so far."""
        text = "\n".join(f"{name} {digest}" for name, digest in sorted(self._digests.items()))
        return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The fingerprint of a whole stream of tensors."""
    digest = Fingerprint()
    for name, tensor in tensors:
        digest.add(name, tensor)
    return digest.hexdigest()
