"""Functions of the user's, named `module:function` or `path/file.py:function`, and errors in them as one line."""

import hashlib
import importlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from evomerge.errors import EvomergeError, TaskError
from evomerge.suggest import did_you_mean

FORM = r"[^:\n]+:[A-Za-z_]\w{0,99}"
HASH_DIGITS = 16
LIKE = "a function, as in my_module:score or path/to/file.py:score"


@dataclass(frozen=True)
class OwnFunction:
    """A function of the user's; `where` names it in messages, `digest` is a hash of its source file.

    Modules in `folder` can be imported while it runs.
    """

    name: str
    where: str
    file: str
    folder: str
    digest: str
    function: Callable[[list[Any]], Any]

    def __call__(self, argument: list[Any]) -> Any:
        """The function's value; TaskError with the file and line if it raises an exception."""
        with _raising(self.where, "fails", self.file), _importable(self.folder):
            return self.function(argument)

    def values(self, items: Sequence[Any]) -> list[Any]:
        """One value for each item; TaskError for another number of values."""
        with _raising(self.where, "fails", self.file), _importable(self.folder):
            found = self.function(list(items))
            listed = None if found is None or isinstance(found, str) else list(found)
        if listed is None:
            raise TaskError(f"{self.where} returned {found!r:.60}, not a list; return one number for each item")
        if len(listed) != len(items):
            raise TaskError(f"{self.where} returned {len(listed)} values for {len(items)} items; return one for each")
        return listed


def load_function(name: str, where: str) -> OwnFunction:
    """The function that `name` refers to; TaskError if there is none. Modules are also found in the current directory.

    A module that is in memory already is read again, so that the function is that of the file.
    """
    place, _, attribute = name.rpartition(":")
    shown = f"{where}={name}"
    is_file = place.endswith(".py")
    folder = str(Path(place).resolve().parent if is_file else Path.cwd())
    with _importable(folder):
        module = _from_file(Path(place), shown) if is_file else _from_name(place, shown, folder)
    function = getattr(module, attribute, None)
    if function is None:
        known = [key for key, value in vars(module).items() if callable(value)]
        raise TaskError(f"{shown}: {place} has no function '{attribute}'{did_you_mean(attribute, known)}; define it")
    if not callable(function):
        raise TaskError(f"{shown}: '{attribute}' is {type(function).__name__}, not a function; name a function")
    file = str(module.__file__)
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:HASH_DIGITS]
    return OwnFunction(name, shown, file, folder, digest, function)


def as_number(value: Any) -> float | None:
    """A value as a float, which may be infinite or NaN; None if it is not a number."""
    if value is None or isinstance(value, str | bytes):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def number_problem(value: Any) -> str | None:
    """Why a value is not a score, or None."""
    number = as_number(value)
    if number is None:
        return f"is {value!r:.60}, not a number"
    return None if math.isfinite(number) else f"is {number}"


def _from_file(path: Path, shown: str) -> ModuleType:
    if not path.is_file():
        raise TaskError(f"{shown}: no file {path}; give its path, relative to the current directory")
    name = f"evomerge_own_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    with _raising(shown, "cannot be imported", str(path)):
        spec.loader.exec_module(module)
    return module


def _from_name(name: str, shown: str, folder: str) -> ModuleType:
    try:
        with _raising(shown, "cannot be imported", ""):
            module = importlib.reload(sys.modules[name]) if name in sys.modules else importlib.import_module(name)
    except TaskError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and cause.name and f"{name}.".startswith(f"{cause.name}."):
            raise TaskError(f"{shown}: no module '{cause.name}' in {folder} and none installed; correct it") from None
        raise
    if not getattr(module, "__file__", None):
        raise TaskError(f"{shown}: module '{name}' has no source file; write a function of your own")
    return module


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Within the context, modules of a folder can be imported.

    Their bytecode is not kept, as it would be taken for that of another version that is written in the same second.
    """
    written = sys.dont_write_bytecode
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = written
        sys.path.remove(folder)


@contextmanager
def _raising(shown: str, verb: str, file: str) -> Iterator[None]:
    """TaskError of one line, with the file and line, for any exception of the user's code."""
    try:
        yield
    except EvomergeError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if file and Path(frame.filename) == Path(file)]
        place = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) else _place((own or frames)[-1])
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise TaskError(f"{shown} {verb} with {reason} ({place}); correct it") from error


def _place(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}:{frame.lineno}"
