"""A LoRA adapter's file: low-rank factors for plain LoRA, whole weights for other kinds such as DoRA.

Opening an adapter reads only headers and builds no model. `update` gives the result of peft's `merge_and_unload` in
fp32.
"""

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.kernels import Factors
from evomerge.models.adapter_config import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, read_config, selects
from evomerge.models.adapter_kinds import Change, bound, read_changes
from evomerge.models.checkpoint import Shape, open_safetensors, warn_about_unread_weights
from evomerge.models.stored_inputs import StoredFactors

_TIED_BY_NAME = ("embed_tokens", "lm_head")  # the modules to which peft applies `ensure_weight_tying`
_VOCABULARY = ("lm_head", "embed_out", "embed_tokens", "embed_in", "wte", "shared", "word_embeddings")


def is_adapter(folder: Path) -> bool:
    """Whether the folder contains an adapter that peft saved, instead of a checkpoint."""
    return (folder / ADAPTER_CONFIG_FILE).is_file()


class Adapter:
    """A LoRA adapter folder, read lazily; raises ExpertError for a kind that cannot be reproduced exactly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._config = read_config(folder)
        self.base_model: str | None = self._config.get("base_model_name_or_path") or None
        self._file = _open(folder)
        self._shapes: dict[str, Shape] = {
            key: tuple(self._file.get_slice(key).get_shape()) for key in self._file.offset_keys()
        }
        self._changes = read_changes(folder, self._config, self._shapes)

    def __reduce__(self) -> tuple[type["Adapter"], tuple[Path]]:
        """Pickled as its folder, because an open file cannot be sent to another process."""
        return Adapter, (self.folder,)

    @property
    def weight_file(self) -> Path:
        """The file of its tensors."""
        return self.folder / ADAPTER_WEIGHTS_FILE

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weight file, which is read completely once."""
        with self.weight_file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def bind(self, name: str, path: str, shape: Shape, is_transposed: bool) -> None:
        """Set which parameter of the base the factors `name` change, for one that `target_parameters` lists.

        Its `update` then has the name `path`. `is_transposed` says whether a stack contains matrices of [in, out].
        ExpertError if its shape does not fit.
        """
        change = self._changes.pop(name)
        factors = self._shapes[change.down or ""][0], self._shapes[change.up or ""][1]
        self._changes[path] = bound(self.folder, self._config, change, path, shape, factors)
        if is_transposed:
            self._changes[path] = replace(self._changes[path], transposed=True)

    def stack_factors(self, name: str, index: int) -> Factors | None:
        """The factors of one matrix of a stacked parameter; None if the change of `name` is not of that kind.

        peft stores lora_A as [experts · rank, in] and lora_B as [out, rank · experts].
        """
        change = self._changes[name]
        if not change.experts:
            return None
        assert change.up is not None and change.down is not None
        up, down = self._tensor(change.up), self._tensor(change.down)
        up = up.reshape(up.shape[0], -1, change.experts)[:, :, index]
        down = down.reshape(change.experts, -1, down.shape[1])[index]
        return Factors(down.T, up.T, change.scale) if change.transposed else Factors(up, down, change.scale)

    @property
    def config(self) -> Mapping[str, Any]:
        """The checked contents of its configuration file."""
        return self._config

    def is_selected(self, module: str) -> bool:
        """Whether the configuration selects the module of this name."""
        return selects(self._config, module)

    def names(self) -> tuple[str, ...]:
        """The base parameters that the adapter changes, sorted."""
        return tuple(self._changes)

    def is_applied(self, name: str, path: str, is_tied: bool) -> bool:
        """Whether peft applies the file's change of this parameter, whose path in the model is `path`.

        `PeftModel.from_pretrained` ignores the factors of a module that the configuration does not select.
        """
        change = self._changes[name]
        if (
            change.down is None or change.experts or change.transposed is False
        ):  # saved whole, or listed in target_parameters
            return True
        if is_tied and self._config.get("ensure_weight_tying") and self._targets_embeddings():
            return True
        return any(selects(self._config, module.removesuffix(".weight")) for module in (name, path))

    def _targets_embeddings(self) -> bool:
        """Whether the targets include a module to which peft applies `ensure_weight_tying`."""
        targets = self._config.get("target_modules") or ()
        if isinstance(targets, str):
            return any(re.fullmatch(targets, name) for name in _TIED_BY_NAME)
        return any(target.rpartition(".")[2] in _TIED_BY_NAME for target in targets)

    def problems(self, shapes: Mapping[str, Shape], ignoring: Collection[str] = ()) -> list[str]:
        """One line per parameter that does not fit a base with these shapes; reads only headers."""
        changes = ((name, change) for name, change in self._changes.items() if name not in ignoring)
        problems = ((name, self._problem(name, change, shapes)) for name, change in changes)
        return [f"{name}: {problem}" for name, problem in problems if problem]

    def follows_ties(self, name: str, is_input: bool) -> bool:
        """Whether parameters tied to this one change with it when peft loads the adapter into a tied model.

        `is_input` says whether it is the input embedding, whose trained tokens peft always ties.
        """
        if self._changes[name].tokens is not None:
            return is_input
        leaf = name.rpartition(".")[0].rpartition(".")[2]
        return bool(self._config.get("ensure_weight_tying")) and leaf in _TIED_BY_NAME

    def saved_base_weight(self, name: str, base: Callable[[str], Tensor]) -> Tensor | None:
        """The embedding in fp32 on which the factors were trained, or None if it is the base's."""
        change = self._changes[name]
        copy = change.magnitude is None and self._differing_copy(name, change, base)
        return self._tensor(copy).float() if copy else None

    def stored_factors(self, name: str, base: Callable[[str], Tensor]) -> StoredFactors | None:
        """Where the file contains the factors that are the whole change of this parameter; None for other changes."""
        change = self._changes[name]
        if not isinstance(self.update(name, base), Factors):
            return None
        assert change.up is not None and change.down is not None
        return StoredFactors(change.up, change.down, change.scale, self._is_transposed(name, change, base))

    def nbytes(self, name: str) -> int:
        """Bytes in fp32 of the tensors that change the parameter."""
        change = self._changes.get(name)
        keys = (change.up, change.down, change.stored, change.copy, change.bias, change.tokens) if change else ()
        return sum(4 * math.prod(self._shapes[key]) for key in keys if key)

    def update(self, name: str, base: Callable[[str], Tensor]) -> Factors | Tensor | None:
        """The change of one base parameter: None, factors for plain LoRA, or the expert's whole weight in fp32.

        Whole weights result from DoRA, trained biases, trained tokens and saved modules. `base` returns a base
        parameter by name, in any dtype; the result is only read.
        """
        change = self._changes.get(name)
        if change is None:
            return None
        if problem := self._problem(name, change, {name: tuple(base(name).shape)}):
            raise ExpertError(f"{self.folder}: {name}: {problem}; give an adapter of this base")
        if change.experts:
            return self._stacked(name, change, base)
        replaced = change.stored or self._differing_copy(name, change, base)
        factors = self._factors(name, change, base) if change.down else None
        if factors is not None and change.magnitude is None and replaced is None:
            return factors
        weight = (self._tensor(replaced) if replaced else base(name)).to(torch.float32, copy=True)
        if factors is not None:
            weight += factors.delta()
        if change.magnitude is not None:
            weight = self._rescaled(weight, change.magnitude, by_column=self._is_transposed(name, change, base))
        if change.bias is not None:
            weight += self._tensor(change.bias).float() * change.scale
        if change.tokens is not None:
            weight[list(change.indices)] = self._tensor(change.tokens).float()
        return weight

    def _stacked(self, name: str, change: Change, base: Callable[[str], Tensor]) -> Tensor:
        weight = base(name).to(torch.float32, copy=True)
        for index in range(change.experts):
            factors = self.stack_factors(name, index)
            assert factors is not None
            weight[index] += factors.delta()
        return weight

    def _tensor(self, key: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(key)
        return tensor

    def _factors(self, name: str, change: Change, base: Callable[[str], Tensor]) -> Factors:
        assert change.up is not None and change.down is not None
        up, down = self._tensor(change.up), self._tensor(change.down)
        transposed = self._is_transposed(name, change, base)
        return Factors(down.T, up.T, change.scale) if transposed else Factors(up, down, change.scale)

    def _product(self, change: Change) -> Shape:
        return self._shapes[change.up or ""][0], self._shapes[change.down or ""][1]

    def _is_transposed(self, name: str, change: Change, base: Callable[[str], Tensor]) -> bool:
        """Whether the parameter is stored as [in, out], like embeddings and the Conv1D of GPT-2.

        The shape of a square matrix does not tell. peft's flag `fan_in_fan_out` describes the last adapted module,
        which may have another type (a Linear head on GPT-2), so a matrix of the same block that is not square decides
        first.
        """
        if change.transposed is not None:
            return change.transposed
        block = re.match(r".*?\.\d+\.", name)
        peers = (peer for peer in self._changes.items() if block and peer[0].startswith(block[0]))
        for peer, other in ((name, change), *peers):
            if other.down and other.transposed is None and self._product(other)[0] != self._product(other)[1]:
                return tuple(base(peer).shape) != self._product(other)
        return bool(self._config.get("fan_in_fan_out"))

    def _differing_copy(self, name: str, change: Change, base: Callable[[str], Tensor]) -> str | None:
        """The name of the saved embedding if it differs from the base's; None if it does not, or if there is none."""
        if change.copy is None:
            return None
        copy, weight = self._tensor(change.copy), base(name)
        is_equal = torch.equal(copy.to(weight.dtype), weight) or torch.equal(copy, weight.to(copy.dtype))
        return None if is_equal else change.copy

    def _rescaled(self, weight: Tensor, magnitude: str, by_column: bool) -> Tensor:
        """DoRA (arXiv:2402.09353, eq. 5): the weights of each output are scaled to the learned norm."""
        norms = torch.linalg.norm(weight, dim=0 if by_column else 1, keepdim=True)
        scaled: Tensor = weight * (self._tensor(magnitude).float().view_as(norms) / norms)
        return scaled

    def _problem(self, name: str, change: Change, shapes: Mapping[str, Shape]) -> str | None:
        module = name.rpartition(".")[0].rpartition(".")[2]
        if name not in shapes:
            return "the base has no such parameter"
        if change.unbound:
            return f"the factors have another rank than {ADAPTER_CONFIG_FILE} says"
        shape = tuple(shapes[name])
        if change.tokens is not None and max(change.indices, default=-1) >= shape[0]:
            return f"token {max(change.indices)} is trained, the base's vocabulary has {shape[0]} rows"
        for other in self._differing_shapes(change, shape):
            if module in _VOCABULARY and other[1:] == shape[1:]:
                return f"{other[0]} rows in the adapter, {shape[0]} in the base (a resized vocabulary)"
            return f"shape {list(other)} in the adapter, {list(shape)} in the base"
        return None

    def _differing_shapes(self, change: Change, shape: Shape) -> Iterator[Shape]:
        """The shapes in the file that differ from the base parameter's."""
        whole = (self._shapes[key] for key in (change.stored, change.copy, change.bias) if key)
        yield from (other for other in whole if other != shape)
        if change.tokens and self._shapes[change.tokens][1:] != shape[1:]:
            yield self._shapes[change.tokens]
        if change.experts:
            product = self._product(change)[:: -1 if change.transposed else 1]
            if shape != (change.experts, *product):
                yield (change.experts, *product)
        elif change.down:
            product = self._product(change)[:: -1 if change.transposed else 1]
            if shape != product and (change.transposed is not None or shape != product[::-1]):
                yield product


def _open(folder: Path) -> Any:
    path = folder / ADAPTER_WEIGHTS_FILE
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        remedy = "load it with peft and save_pretrained it again" if pickled else "download the adapter again"
        raise ExpertError(f"{folder}: no {ADAPTER_WEIGHTS_FILE}{' but a pickled .bin' if pickled else ''}; {remedy}")
    warn_about_unread_weights(folder, (ADAPTER_WEIGHTS_FILE,), "adapter_model*.safetensors", "adapter_model*.bin")
    return open_safetensors(path)
