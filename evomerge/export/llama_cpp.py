"""Runs llama.cpp's own programs: its converter of checkpoint folders, and `llama-quantize` for types below 8 bits.

They are found in a checkout of llama.cpp (an argument, or EVOMERGE_LLAMA_CPP), or else on the PATH.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import ConfigError, RunError
from evomerge.suggest import did_you_mean

CHECKOUT_VARIABLE = "EVOMERGE_LLAMA_CPP"
CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")
QUANTISER = "llama-quantize"
QUANTISER_PLACES = ("build/bin", "build/bin/Release", ".", "bin")
CONVERTED = ("F32", "F16", "BF16", "Q8_0")  # types that the converter writes by itself
QUANTISED = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L"),
    *("Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_M", "TQ1_0", "TQ2_0"),
)
SUFFIX = ".gguf"
SAME_AS_WEIGHTS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class GgufTools:
    """The programs that make a GGUF file of this type; `quantiser` is None where the converter is enough."""

    type: str
    converter: tuple[str, ...]
    quantiser: str | None

    def convert(self, folder: Path, out: Path) -> None:
        """Make the file `out` of a checkpoint folder; RunError with the last line of a program that fails."""
        partial = out.with_name(f"{out.stem}.partial{SUFFIX}")
        whole = out.with_name(f"{out.stem}.converted.partial{SUFFIX}") if self.quantiser else partial
        try:
            written = self.type if self.quantiser is None else _type_of_weights(folder)
            _run([*self.converter, str(folder), "--outfile", str(whole), "--outtype", written.lower()])
            if self.quantiser:
                _run([self.quantiser, str(whole), str(partial), self.type])
            if not partial.is_file():
                raise RunError(f"{out}: {self.converter[-1]} ended without an error, but wrote no file")
            partial.replace(out)
        finally:
            whole.unlink(missing_ok=True)
            partial.unlink(missing_ok=True)


def _type_of_weights(folder: Path) -> str:
    """The type that rounds no weight of the folder: bfloat16 has values beyond the range of F16."""
    config = json.loads((folder / "config.json").read_text())
    return SAME_AS_WEIGHTS.get(config.get("dtype"), "F32")


def find_tools(kind: str, checkout: Path | None = None) -> GgufTools:
    """The programs for a type such as F16 or Q4_K_M; ConfigError for an unknown type or a missing program."""
    name = kind.upper()
    if name not in (*CONVERTED, *QUANTISED):
        known = ", ".join((*CONVERTED, *QUANTISED))
        raise ConfigError(f"format gguf:{kind}: no such type{did_you_mean(name, (*CONVERTED, *QUANTISED))}; {known}")
    place = _checkout(checkout)
    converter = _find_converter(place)
    if converter is None:
        raise ConfigError(
            f"format gguf: llama.cpp's converter is not there: put {' or '.join(CONVERTERS)} on the PATH (it is in a "
            f"checkout of llama.cpp, and in the package {CONVERTERS[1]}), or give the checkout by {CHECKOUT_VARIABLE}"
        )
    quantiser = None if name in CONVERTED else _find_quantiser(place)
    if name not in CONVERTED and quantiser is None:
        raise ConfigError(
            f"format gguf:{kind}: {QUANTISER} is not there: build llama.cpp and put it on the PATH, or give the "
            f"checkout by {CHECKOUT_VARIABLE}; without it there are {', '.join(CONVERTED)}"
        )
    return GgufTools(name, converter, quantiser)


def _checkout(given: Path | None) -> Path | None:
    named = os.environ.get(CHECKOUT_VARIABLE)
    place = given or (Path(named) if named else None)
    if place is not None and not (place / CONVERTERS[0]).is_file():
        raise ConfigError(f"{place}: no {CONVERTERS[0]}; give the folder of a checkout of llama.cpp")
    return place


def _find_converter(checkout: Path | None) -> tuple[str, ...] | None:
    if checkout is not None:
        return sys.executable, str(checkout / CONVERTERS[0])
    found = next((path for name in CONVERTERS if (path := shutil.which(name))), None)
    if found is None:
        return None
    return (sys.executable, found) if found.endswith(".py") else (found,)


def _find_quantiser(checkout: Path | None) -> str | None:
    places = [str(checkout / place) for place in QUANTISER_PLACES] if checkout else []
    inside = shutil.which(QUANTISER, path=os.pathsep.join(places)) if places else None
    return inside or shutil.which(QUANTISER)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RunError(f"{command[0]}: {error.strerror}; look at its permissions") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        program = next((part for part in command if part != sys.executable), command[0])
        last = lines[-2:] if lines and " " not in lines[-1] else lines[-1:]  # an exception without words
        reason = ": ".join(last)[:300] or f"exit code {done.returncode}"
        raise RunError(f"{program}: {reason}; merge without a format first, and look at the folder")
