"""A context manager that writes a folder completely or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from evomerge.errors import ConfigError, RunError, remedy_for


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `out` when the block succeeds, and removed when it raises.

    ConfigError if `out` exists and is not empty; RunError if the system cannot write.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise ConfigError(f"{out}: already exists and is not empty; give a new folder")
    staging = out.with_name(out.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        yield staging
        if out.exists():
            out.rmdir()
        staging.rename(out)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise RunError(
            f"{out}: could not be written ({reason}); {remedy_for(error)} or choose another folder"
        ) from error
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
