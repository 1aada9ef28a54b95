"""One finding of an audit: a plain value that a table, a program or a test can read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]
Kind = Literal[
    "not finite",
    "huge values",
    "denormal values",
    "zeroed block",
    "dtype",
    "wrong base",
    "base and expert swapped",
    "permuted layers",
    "wrong tensor",
    "equal to the base",
    "near-zero delta",
    "layers without delta",
    "norm of a tensor",
    "norm of a layer",
    "scale of experts",
    "adapter fields",
    "duplicate",
    "merged twice",
    "redundant pair",
    "opposed pair",
    "chat template",
    "tokenizer",
    "special tokens",
    "generation config",
    "config clash",
]


@dataclass(frozen=True)
class Finding:
    """What is wrong with which model, the numbers that show it, and what to do.

    `who` holds the labels of the experts, or `base`. An `error` makes every merge with the model meaningless; a
    `warning` can be meant, but costs score if it is not.
    """

    kind: Kind
    who: tuple[str, ...]
    severity: Severity
    evidence: str
    remedy: str


def some(names: Sequence[str], shown: int = 2) -> str:
    """The first names, and the number of further ones."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
