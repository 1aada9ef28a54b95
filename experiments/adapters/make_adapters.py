"""Write random but plausible LoRA adapters of one base, and an experiment that searches over all of them.

Usage: python experiments/adapters/make_adapters.py OUT [--base DIR] [--adapters 20]

Without --base a random Llama of 32M parameters is made in OUT/base. The adapters alternate between rank 8 and 16 and
change every linear layer by 2 % of its norm. OUT/conf/experiment/adapters.yaml is the quickstart's experiment on them:
it is there to be checked, its scores mean nothing.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.models.family import Family
from evomerge.recipes.recipe import ModelRef

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "experiments" / "quickstart"
RANKS = (8, 16)
MOVED = 0.02  # ‖ΔW‖ / ‖W‖
SKIPPED = ("embed", "wte", "lm_head", "shared")


def make_base(folder: Path) -> None:
    """A random Llama with the quickstart's tokenizer; 32M parameters in bfloat16, 64 MB."""
    shutil.copytree(
        QUICKSTART / "family" / "base", folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json")
    )
    vocabulary = json.loads((QUICKSTART / "family" / "base" / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 10, "num_attention_heads": 8}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=vocabulary, tie_word_embeddings=True))
    model.to(torch.bfloat16).save_pretrained(folder)


def make_adapter(base: Path, folder: Path, seed: int) -> None:
    """One adapter in peft's format, bfloat16; its product with alpha/r has MOVED of each weight's norm."""
    family = Family(ModelRef(str(base)), ())
    rank, generator = RANKS[seed % len(RANKS)], torch.Generator().manual_seed(seed)
    tensors, targets = {}, set()
    for name, parameter in family.base.parameter.items():
        weight = family.base.tensor(name)
        module = parameter.removesuffix(".weight")
        if weight.ndim != 2 or any(word in module for word in SKIPPED):
            continue
        down = torch.randn(rank, weight.shape[1], generator=generator)
        up = torch.randn(weight.shape[0], rank, generator=generator)
        up *= MOVED * weight.float().norm() / (2.0 * (up @ down).norm())  # alpha / r is 2
        tensors[f"base_model.model.{module}.lora_A.weight"] = down.bfloat16()
        tensors[f"base_model.model.{module}.lora_B.weight"] = up.bfloat16()
        targets.add(module.rpartition(".")[2])
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.0}
    config |= {"base_model_name_or_path": str(base), "target_modules": sorted(targets), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_experiment(base: Path, adapters: list[Path], out: Path) -> None:
    """The quickstart's tasks on this base and these adapters."""
    experiment = yaml.safe_load((ROOT / "conf" / "experiment" / "quickstart.yaml").read_text())
    experiment |= {"base": str(base), "experts": {folder.name: str(folder) for folder in adapters}}
    experiment["model"] = {"dtype": "bfloat16", "device": "cpu"}
    experiment["space"] = {"schedule": "all"}
    path = out / "conf" / "experiment" / "adapters.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# @package _global_\n" + yaml.safe_dump(experiment, sort_keys=False))


def make(out: Path, base: Path | None, count: int) -> list[Path]:
    """Everything below `out`, which must not hold it yet; returns the adapters' folders."""
    chosen = (base or out / "base").resolve()
    if base is None:
        make_base(chosen)
    adapters = [(out / "adapters" / f"a{place:02d}").resolve() for place in range(count)]
    for place, folder in enumerate(adapters):
        make_adapter(chosen, folder, place)
    write_experiment(chosen, adapters, out)
    return adapters


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--adapters", type=int, default=20)
    given = parser.parse_args()
    if (given.out / "adapters").exists():
        raise SystemExit(f"{given.out}/adapters is there already; delete it, or give another folder")
    adapters = make(given.out, given.base, given.adapters)
    size = sum(file.stat().st_size for folder in adapters for file in folder.iterdir())
    print(
        f"{given.out}: {len(adapters)} adapters, {size / 1e6:.1f} MB; next: cd {given.out}, check +experiment=adapters"
    )


if __name__ == "__main__":
    main()
