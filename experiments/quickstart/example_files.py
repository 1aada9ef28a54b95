"""`python -m experiments.quickstart.example_files DIR` makes the files that the tutorials name.

Tiny models (`models/`), LoRA adapters (`adapters/`), files of questions (`math.csv`, …), an experiment, a recipe.
"""

import argparse
import csv
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
EXPERTS = {"math": "shift", "law": "last", "code": "max"}  # names of the tutorials: experts of the quickstart
MINE = """# @package _global_
base: models/base
experts: {math: models/math, law: models/law}
model: {dtype: float32, device: cpu}
space: {schedule: "blocks:2"}
budget: {evaluations: 8}
scorer:
  slices: {search: 8, select: 8, holdout: 16}
  tasks: [{name: math, file: math.csv}, {name: law, file: law.csv}]
"""
RECIPE = """merge_method: task_arithmetic
base_model: models/base
models:
  - {model: models/math, parameters: {weight: 0.6}}
  - {model: models/law, parameters: {weight: 0.6}}
dtype: float32
"""
TASK = """task: math
dataset_path: csv
dataset_kwargs: {data_files: {test: math.csv}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{[a, b, c, d]}}"
doc_to_target: gold
"""


def make_example_files(folder: Path) -> None:
    """Fill an empty or new folder."""
    for name, source in {"base": "base", **EXPERTS}.items():
        shutil.copytree(HERE / "family" / source, folder / "models" / name)
    for name in EXPERTS:
        _save_adapter(folder, name)
        _save_questions(HERE / "data" / f"{EXPERTS[name]}.jsonl", folder / f"{name}.csv")
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "mine.yaml").write_text(MINE)
    (folder / "mergekit.yml").write_text(RECIPE)
    (folder / "math.yaml").write_text(TASK)


def _save_questions(source: Path, file: Path) -> None:
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["question", "a", "b", "c", "d", "gold"])
        writer.writerows([row["query"], *row["choices"], row["gold"]] for row in rows)


def _save_adapter(folder: Path, name: str, rank: int = 16) -> None:
    """The nearest LoRA adapter of `rank` to the difference between an expert and the base."""
    base = load_file(folder / "models" / "base" / "model.safetensors")
    expert = load_file(folder / "models" / name / "model.safetensors")
    tensors, modules = {}, set()
    for key, value in base.items():
        if key.endswith("proj.weight"):
            module = key.removesuffix(".weight")
            left, scale, right = torch.linalg.svd(expert[key].float() - value.float(), full_matrices=False)
            tensors[f"base_model.model.{module}.lora_A.weight"] = right[:rank].contiguous()
            tensors[f"base_model.model.{module}.lora_B.weight"] = (left[:, :rank] * scale[:rank]).contiguous()
            modules.add(module.rpartition(".")[2])
    out = folder / "adapters" / name
    out.mkdir(parents=True)
    save_file(tensors, out / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "bias": "none"}
    config |= {"base_model_name_or_path": "models/base", "target_modules": sorted(modules)}
    (out / "adapter_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    make_example_files(parser.parse_args().folder)
