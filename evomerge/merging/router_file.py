"""The file of calibrated routers beside a recipe: float32 tensors by name, written once and checked when read."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from evomerge.atomic import write_atomically
from evomerge.errors import ExpertError
from evomerge.paths import cache_folder
from evomerge.recipes import Recipe, TensorFile


def write_routers(tensors: Mapping[str, Tensor], path: Path) -> TensorFile:
    """Write the tensors; the file is replaced as a whole."""
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
    write_atomically(path, data)
    return TensorFile(str(path), hashlib.sha256(data).hexdigest())


def stored_routers(path: Path) -> TensorFile:
    """The reference to a file that `write_routers` wrote."""
    return TensorFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def keep_routers(recipe: Recipe, folder: Path) -> None:
    """Copy the recipe's file of routers, if it has one, into the folder that the recipe is written to."""
    if recipe.routers is None or (folder / Path(recipe.routers.path).name).exists():
        return
    read_routers(recipe.routers)
    write_atomically(folder / Path(recipe.routers.path).name, Path(recipe.routers.path).read_bytes())


def routers_at_hand(recipe: Recipe, data: bytes | None) -> Recipe:
    """The recipe with a file of routers that this machine has; `data` is its content, None if nothing was sent."""
    if recipe.routers is None or data is None or Path(recipe.routers.path).is_file():
        return recipe
    path = cache_folder() / "routers" / f"{recipe.routers.sha256}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    return replace(recipe, routers=replace(recipe.routers, path=str(path)))


@lru_cache(maxsize=2)
def read_routers(file: TensorFile) -> Mapping[str, Tensor]:
    """Name → tensor; ExpertError if the file is missing or is not the one that the recipe was scored with."""
    try:
        data = Path(file.path).read_bytes()
    except OSError as error:
        raise ExpertError(
            f"{file.path}: {error.strerror}; the recipe needs this file of calibrated routers beside it"
        ) from None
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise ExpertError(f"{file.path}: not the routers that the recipe was scored with; bring those back")
    try:
        found: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise ExpertError(f"{file.path}: not safetensors ({error}); bring back the file that the run wrote") from None
    return found
