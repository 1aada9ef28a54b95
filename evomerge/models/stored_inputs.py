"""Where the files of a model contain its update of one tensor of the base, for a program that reads them itself."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class StoredTensor:
    """A whole tensor, by its name in the model's files."""

    key: str


@dataclass(frozen=True)
class StoredFactors:
    """The factors of scale · up @ down, by their names in the adapter's file; `transposed` if that is the transpose."""

    up: str
    down: str
    scale: float
    transposed: bool


# "base": the model's tensor is the base's; "computed": it follows from the files only by an adapter's other rules.
StoredInput = StoredTensor | StoredFactors | Literal["base", "computed"]
