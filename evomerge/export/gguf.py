"""Exports a merged model as one GGUF file: the checkpoint folder, converted by llama.cpp's programs."""

import tempfile
from pathlib import Path

from evomerge.errors import ConfigError, RunError, remedy_for
from evomerge.export.folder import merge_recipe
from evomerge.export.llama_cpp import CONVERTED, SUFFIX, find_tools
from evomerge.recipes import Recipe

FORMAT = "gguf"
DEFAULT_TYPE = "F16"


def merge_gguf(
    source: Path | Recipe,
    out: Path,
    kind: str = DEFAULT_TYPE,
    *,
    llama_cpp: Path | None = None,
    trust_remote_code: bool = False,
) -> str:
    """Build the model of a recipe as the new file `out` of a GGUF type; returns the fingerprint before conversion.

    `llama_cpp` is a checkout of llama.cpp. ConfigError for an unknown type, a missing program or an existing file, and
    RunError if a program fails; all of the errors of `merge_recipe`. An incomplete file is removed.
    """
    if out.suffix != SUFFIX:
        raise ConfigError(f"{out}: a GGUF file's name ends with {SUFFIX}")
    if out.exists():
        raise ConfigError(f"{out}: already exists; give a new file")
    tools = find_tools(kind, llama_cpp)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{out.stem}.partial-", dir=out.parent) as temporary:
            folder = Path(temporary) / out.stem  # the converter takes the model's name from the folder's
            fingerprint = merge_recipe(source, folder, trust_remote_code=trust_remote_code)
            tools.convert(folder, out)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{out}: could not be written ({reason}); {remedy_for(error)} or choose another file") from error
    return fingerprint


def parse_format(text: str) -> str:
    """The GGUF type in `gguf` or `gguf:TYPE`; ConfigError for another format."""
    name, _, kind = text.partition(":")
    if name.lower() != FORMAT or (":" in text and not kind):
        raise ConfigError(
            f"format {text}: give {FORMAT}, or {FORMAT}:TYPE with a type such as {', '.join(CONVERTED)}, Q4_K_M"
        )
    return kind or DEFAULT_TYPE
