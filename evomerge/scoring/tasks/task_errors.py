"""Conversion of errors of lm-eval, its data loaders and templates to one line that names the task and the remedy."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import datasets
from jinja2 import UndefinedError
from lm_eval.api.registry import METRIC_REGISTRY

from evomerge.errors import EvomergeError, TaskError, remedy_for
from evomerge.schema import as_yaml
from evomerge.scoring.tasks.error_places import columns_remedy, place_of
from evomerge.scoring.tasks.task_entries import TaskEntry

MOVED = "set HF_HOME, or HF_DATASETS_CACHE for data sets alone, to a folder that can be written"


@contextmanager
def raising_task_error(what: str, remedy: str) -> Iterator[None]:
    """Convert any exception of a task's templates, metrics or data to a TaskError with the given text and remedy."""
    try:
        yield
    except EvomergeError:
        raise
    except Exception as error:
        place, known = place_of(error), _columns(error)
        raise TaskError(f"{what}: {place}{type(error).__name__}: {one_line(error)}{known}; {remedy}") from error


def foreign_metrics(entry: TaskEntry) -> list[str]:
    """The metrics of a spec that lm-eval does not have and would load from a hub."""
    listed = (entry.spec or {}).get("metric_list")
    named = (one.get("metric") for one in listed if isinstance(one, Mapping)) if isinstance(listed, list) else ()
    return [as_yaml(name) for name in named if str(name) not in METRIC_REGISTRY]


def load_problem(error: BaseException, entry: TaskEntry, offline: str | None) -> str:
    """Why a task could not be loaded, and the remedy; `offline` is the reason if hubs are not reachable."""
    cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
    if isinstance(cause, OSError) and (found := _cache_of(cause, entry)):
        folder, other = found
        reason = f"{cause.filename or folder}: {cause.strerror or cause}"
        return f"cannot be loaded, as its cache {folder} cannot be written ({reason}); {remedy_for(cause)}, or {other}"
    if isinstance(error, KeyError | ImportError) and (foreign := foreign_metrics(entry)):
        return f"cannot be loaded: lm-eval has no metric {foreign[0]}, and no hub gave it; correct its metric_list"
    if isinstance(error, FileNotFoundError):
        return f"misses its data: {one_line(error)}; check the path, relative to the current folder"
    if isinstance(error, ConnectionError):
        return f"cannot fetch its data set: {offline or one_line(error)}; check the network, or use local files"
    if isinstance(error, StopIteration) or (isinstance(error, IndexError) and "size 0" in str(error)):
        return "has no documents; check its data files"
    place = place_of(error)
    if place.endswith("is no text; "):
        return f'cannot be loaded: {place}give texts, as in doc_to_choice: "{{{{[a|string, b|string]}}}}"'
    if place.endswith("is empty; "):
        return f"cannot be loaded: {place}give every choice a text"
    if isinstance(error, IndexError):
        return f"cannot be loaded: {place}{one_line(error)}; check that doc_to_target is the number or text of a choice"
    reason = f"{type(cause).__name__}: {one_line(cause)}{_columns(error)}"
    return f"cannot be loaded: {place}{reason}; check its spec or YAML file"


def _columns(error: BaseException) -> str:
    """The columns of the data, for a name that is undefined in a template."""
    remedy = columns_remedy(error) if isinstance(error, UndefinedError | KeyError) else ""
    return f" ({remedy})" if remedy else ""


def _cache_of(error: OSError, entry: TaskEntry) -> tuple[str, str] | None:
    """The cache folder that could not be written, and how to change it; None if the error has another cause.

    The path in the error may be the folder itself, a file in it, or one of its parents.
    """
    given = (entry.spec or {}).get("dataset_kwargs")
    own = given.get("cache_dir") if isinstance(given, Mapping) else None
    caches = {str(own): "give another cache_dir"} if own else {}
    caches |= dict.fromkeys(map(str, (datasets.config.HF_DATASETS_CACHE, datasets.config.HF_MODULES_CACHE)), MOVED)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) and not error.filename:
        return next(iter(caches.items()))
    place = Path(str(error.filename)).absolute()
    for folder, other in caches.items():
        cache = Path(folder).absolute()
        if place == cache or place in cache.parents or cache in place.parents:
            return folder, other
    return None


def one_line(error: BaseException) -> str:
    """An exception's message on one line, truncated to 300 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."
