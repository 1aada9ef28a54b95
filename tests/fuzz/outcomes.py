"""What may become of an input: a value, or one error of evomerge whose message is a short line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from evomerge.errors import MAX_LENGTH, EvomergeError
from tests.fuzz.budget import INPUTS

Value = TypeVar("Value")
REFUSED = object()  # what `outcome` returns for an input that was refused


def outcome(what: str, function: Callable[[], Value], *, named: str = "") -> Value | Any:
    """The value of the function, or REFUSED; any other exception than an EvomergeError fails the test.

    `what` is the property that is checked, for the count. The message of a refusal has `named`, such as a file's name.
    """
    INPUTS[what] += 1
    try:
        return function()
    except EvomergeError as error:
        said = str(error)
        assert said.strip() and len(said) <= MAX_LENGTH and "\n" not in said and said.isprintable(), repr(said)
        assert named in said, f"{said!r} does not name {named}"
        return REFUSED


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content: what an input may not change."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
