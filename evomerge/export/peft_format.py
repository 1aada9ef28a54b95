"""Writes low-rank updates as the two files that peft's `PeftModel.from_pretrained` reads.

The names of factors in peft depend on the type of module: a Linear stores its weight as [out, in], a Conv1D (GPT-2) and
an Embedding as [in, out]. alpha equals the rank in every module, so that peft's scaling alpha / rank is exactly 1. `r`
in the configuration is the highest rank, because some loaders allocate memory by it.
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from evomerge.errors import ConfigError
from evomerge.models import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, Base, empty_model
from evomerge.recipes import ModelRef


class Modules:
    """The modules of the base's architecture, built on the meta device without weights."""

    def __init__(self, base: Base) -> None:
        self._model = empty_model(base.folder, base.trust_remote_code)
        self.paths = frozenset(path for path, _ in self._model.named_modules())
        self.task = "SEQ_2_SEQ_LM" if self._model.config.is_encoder_decoder else "CAUSAL_LM"

    def kind(self, path: str) -> type[nn.Module]:
        """Linear, Conv1D or Embedding; ConfigError for a module that peft does not adapt."""
        module = self._model.get_submodule(path)
        kind = next((kind for kind in (nn.Linear, nn.Embedding, Conv1D) if isinstance(module, kind)), None)
        if kind is None:
            name = type(module).__name__
            raise ConfigError(f"{path}: a {name}, which is no module that peft adapts; merge without --adapter")
        return kind


def write_weights(
    modules: Modules,
    base: ModelRef,
    factors: Mapping[str, tuple[Tensor, Tensor]],
    tied: Mapping[str, str],
    folder: Path,
) -> None:
    """Write both files into `folder`; `factors` are (up, down) of each changed parameter in its own orientation.

    `tied` maps aliases to changed parameters to which they stay tied. As in peft's own files, they get copies of the
    factors.
    """
    ranks: dict[str, int] = {}
    tensors: dict[str, Tensor] = {}
    copies = {alias: tuple(side.clone() for side in factors[name]) for alias, name in tied.items()}
    for name, (up, down) in {**factors, **copies}.items():
        path = name.removesuffix(".weight")  # only weights have factors (models/adapter_kinds.py)
        ranks[path] = up.shape[1]
        tensors |= _peft_tensors(path, modules.kind(path), up, down)
    save_file(tensors, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    os.chmod(folder / ADAPTER_WEIGHTS_FILE, 0o644)  # safetensors creates files that only their owner can read
    conv = any(modules.kind(path) is Conv1D for path in ranks)
    config = _config(base, modules, ranks) | {"fan_in_fan_out": conv, "ensure_weight_tying": bool(tied)}
    (folder / ADAPTER_CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _peft_tensors(path: str, kind: type[nn.Module], up: Tensor, down: Tensor) -> dict[str, Tensor]:
    first, second = (down, up) if kind is nn.Linear else (up.T, down.T)
    keys = ("embedding_A", "embedding_B") if kind is nn.Embedding else ("A.weight", "B.weight")
    return {
        f"base_model.model.{path}.lora_{key}": tensor.contiguous()
        for key, tensor in zip(keys, (first, second), strict=True)
    }


def _config(base: ModelRef, modules: Modules, ranks: Mapping[str, int]) -> dict[str, object]:
    highest = max(ranks.values())
    patterns = _rank_patterns(ranks, highest)
    return {
        "peft_type": "LORA",
        "task_type": modules.task,
        "base_model_name_or_path": base.path,
        "revision": base.revision,
        "r": highest,
        "lora_alpha": highest,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "target_modules": _targets(ranks, modules.paths),
        "bias": "none",
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }


def _targets(chosen: Collection[str], known: Collection[str]) -> list[str]:
    """The last components of the modules' names, or whole names where other modules have the same last component."""
    other = {_last(path) for path in known if path not in chosen}
    return sorted({path if _last(path) in other else _last(path) for path in chosen})


def _rank_patterns(ranks: Mapping[str, int], default: int) -> dict[str, int]:
    """peft's regular expressions for ranks other than `default`; modules with equal last names and ranks share one."""
    by_last: dict[str, set[int]] = {}
    for path, rank in ranks.items():
        by_last.setdefault(_last(path), set()).add(rank)
    patterns = {
        re.escape(_last(path)) if len(by_last[_last(path)]) == 1 else f"^{re.escape(path)}": rank
        for path, rank in ranks.items()
        if rank != default
    }
    return dict(sorted(patterns.items()))


def _last(path: str) -> str:
    return path.rpartition(".")[2]
