"""LoRA adapters as experts: low-rank factors where the kind allows it, whole weights where it does not.

Only headers are read until an update is asked for, and no model is built. `update` gives what peft's
`merge_and_unload` gives, in fp32.
"""

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import ExpertError
from evomerge.kernels import Factors
from evomerge.models.adapter_config import CONFIG_FILE, read_config, selects
from evomerge.models.adapter_kinds import Change, Shape, read_changes
from evomerge.models.checkpoint import open_safetensors, say_what_is_read

_WEIGHTS_FILE = "adapter_model.safetensors"
_TIED_BY_NAME = ("embed_tokens", "lm_head")  # the modules that `ensure_weight_tying` of peft knows
_VOCABULARY = ("lm_head", "embed_out", "embed_tokens", "embed_in", "wte", "shared", "word_embeddings")


def is_adapter(folder: Path) -> bool:
    """True for a folder that peft saved an adapter into, rather than a checkpoint."""
    return (folder / CONFIG_FILE).is_file()


class Adapter:
    """A LoRA adapter folder, read lazily; raises ExpertError for a kind that cannot be read exactly."""

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
        """Another process opens the folder itself: an open file cannot be sent."""
        return Adapter, (self.folder,)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weight file: reads it once."""
        with (self.folder / _WEIGHTS_FILE).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def names(self) -> tuple[str, ...]:
        """The base parameters that the adapter changes, sorted."""
        return tuple(self._changes)

    def is_loaded(self, name: str, path: str, is_tied: bool) -> bool:
        """Whether peft would use what the file says of this parameter, which stands at `path` in the model.

        Factors of a module that the configuration does not select are passed over by `PeftModel.from_pretrained`.
        """
        change = self._changes[name]
        if change.down is None or change.flipped is False:  # saved whole, or a parameter that is targeted by its name
            return True
        if is_tied and self._config.get("ensure_weight_tying") and self._targets_embeddings():
            return True
        return any(selects(self._config, found.removesuffix(".weight")) for found in (name, path))

    def _targets_embeddings(self) -> bool:
        """Whether the modules that `ensure_weight_tying` knows by name are among the targets."""
        targets = self._config.get("target_modules") or ()
        if isinstance(targets, str):
            return any(re.fullmatch(targets, name) for name in _TIED_BY_NAME)
        return any(target.rpartition(".")[2] in _TIED_BY_NAME for target in targets)

    def problems(self, shapes: Mapping[str, Shape], ignoring: Collection[str] = ()) -> list[str]:
        """Why the adapter does not fit a base of these shapes, a line per parameter, from headers alone."""
        changes = ((name, change) for name, change in self._changes.items() if name not in ignoring)
        found = ((name, self._problem(name, change, shapes)) for name, change in changes)
        return [f"{name}: {problem}" for name, problem in found if problem]

    def follows_ties(self, name: str, is_input: bool) -> bool:
        """Whether what is tied to this parameter changes with it when peft loads the adapter into a tied model.

        `is_input` tells whether it is the input embedding, whose trained tokens peft always ties.
        """
        if self._changes[name].tokens is not None:
            return is_input
        leaf = name.rpartition(".")[0].rpartition(".")[2]
        return bool(self._config.get("ensure_weight_tying")) and leaf in _TIED_BY_NAME

    def copied(self, name: str, base: Callable[[str], Tensor]) -> Tensor | None:
        """The tensor that stood under the adapter's factors where that is not the base's; fp32."""
        change = self._changes[name]
        copy = change.magnitude is None and self._differing_copy(name, change, base)
        return self._tensor(copy).float() if copy else None

    def nbytes(self, name: str) -> int:
        """Bytes of the tensors that change the parameter, taken as fp32."""
        change = self._changes.get(name)
        keys = (change.up, change.down, change.stored, change.copy, change.bias, change.tokens) if change else ()
        return sum(4 * math.prod(self._shapes[key]) for key in keys if key)

    def update(self, name: str, base: Callable[[str], Tensor]) -> Factors | Tensor | None:
        """The adapter's effect on one base parameter.

        Args:
            name: A base parameter.
            base: Reads a base parameter, of any dtype; it is never written to. For factors it is asked for
                shapes only, unless peft saved a copy of the base tensor to compare with.

        Returns:
            None where the adapter changes nothing, factors for the plain kinds, else the expert's whole
            weight in fp32 (DoRA, trained biases and tokens, saved modules).
        """
        change = self._changes.get(name)
        if change is None:
            return None
        if problem := self._problem(name, change, {name: tuple(base(name).shape)}):
            raise ExpertError(f"{self.folder}: {name}: {problem}; give an adapter of this base")
        replaced = change.stored or self._differing_copy(name, change, base)
        factors = self._factors(name, change, base) if change.down else None
        if factors is not None and change.magnitude is None and replaced is None:
            return factors
        weight = (self._tensor(replaced) if replaced else base(name)).to(torch.float32, copy=True)
        if factors is not None:
            weight += factors.delta()
        if change.magnitude is not None:
            weight = self._rescaled(weight, change.magnitude, by_column=self._is_flipped(name, change, base))
        if change.bias is not None:
            weight += self._tensor(change.bias).float() * change.scale
        if change.tokens is not None:
            weight[list(change.indices)] = self._tensor(change.tokens).float()
        return weight

    def _tensor(self, key: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(key)
        return tensor

    def _factors(self, name: str, change: Change, base: Callable[[str], Tensor]) -> Factors:
        assert change.up is not None and change.down is not None
        up, down = self._tensor(change.up), self._tensor(change.down)
        flipped = self._is_flipped(name, change, base)
        return Factors(down.T, up.T, change.scale) if flipped else Factors(up, down, change.scale)

    def _product(self, change: Change) -> Shape:
        return self._shapes[change.up or ""][0], self._shapes[change.down or ""][1]

    def _is_flipped(self, name: str, change: Change, base: Callable[[str], Tensor]) -> bool:
        """Whether the parameter is stored [in, out]: embeddings, and the Conv1D of GPT-2.

        A square matrix fits both ways. peft's flag describes the last module it adapted, which need not be of
        this type (a Linear head on GPT-2), so a neighbour in the block that is not square is asked first.
        """
        if change.flipped is not None:
            return change.flipped
        block = re.match(r".*?\.\d+\.", name)
        peers = (peer for peer in self._changes.items() if block and peer[0].startswith(block[0]))
        for peer, other in ((name, change), *peers):
            if other.down and other.flipped is None and self._product(other)[0] != self._product(other)[1]:
                return tuple(base(peer).shape) != self._product(other)
        return bool(self._config.get("fan_in_fan_out"))

    def _differing_copy(self, name: str, change: Change, base: Callable[[str], Tensor]) -> str | None:
        """The tensor to start from where the adapter was trained on another embedding than the base's."""
        if change.copy is None:
            return None
        copy, weight = self._tensor(change.copy), base(name)
        same = torch.equal(copy.to(weight.dtype), weight) or torch.equal(copy, weight.to(copy.dtype))
        return None if same else change.copy

    def _rescaled(self, weight: Tensor, magnitude: str, by_column: bool) -> Tensor:
        """DoRA (arXiv:2402.09353, eq. 5): each output's weights get the learned norm."""
        norms = torch.linalg.norm(weight, dim=0 if by_column else 1, keepdim=True)
        scaled: Tensor = weight * (self._tensor(magnitude).float().view_as(norms) / norms)
        return scaled

    def _problem(self, name: str, change: Change, shapes: Mapping[str, Shape]) -> str | None:
        module = name.rpartition(".")[0].rpartition(".")[2]
        if name not in shapes:
            return "the base has no such parameter"
        shape = tuple(shapes[name])
        if change.tokens is not None and max(change.indices, default=-1) >= shape[0]:
            return f"token {max(change.indices)} is trained, the base's vocabulary has {shape[0]} rows"
        for found in self._found_shapes(change, shape):
            if module in _VOCABULARY and found[1:] == shape[1:]:
                return f"{found[0]} rows in the adapter, {shape[0]} in the base (a resized vocabulary)"
            return f"shape {list(found)} in the adapter, {list(shape)} in the base"
        return None

    def _found_shapes(self, change: Change, shape: Shape) -> Iterator[Shape]:
        """The shapes in the file that disagree with the base parameter's."""
        whole = (self._shapes[key] for key in (change.stored, change.copy, change.bias) if key)
        yield from (found for found in whole if found != shape)
        if change.tokens and self._shapes[change.tokens][1:] != shape[1:]:
            yield self._shapes[change.tokens]
        if change.down:
            product = self._product(change)[:: -1 if change.flipped else 1]
            if shape != product and (change.flipped is not None or shape != product[::-1]):
                yield product


def _open(folder: Path) -> Any:
    path = folder / _WEIGHTS_FILE
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        remedy = "load it with peft and save_pretrained it again" if pickled else "download the adapter again"
        raise ExpertError(f"{folder}: no {_WEIGHTS_FILE}{' but a pickled .bin' if pickled else ''}; {remedy}")
    say_what_is_read(folder, (_WEIGHTS_FILE,), "adapter_model*.safetensors", "adapter_model*.bin")
    return open_safetensors(path)
