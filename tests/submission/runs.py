"""Finished runs of tiny families with tokenizers, for packs: only the files that a submission reads are written."""

import csv
import json
import random
import string
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.families import TARGETS, shift
from tests.scoring.conftest import char_tokenizer

LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
T5_IDS = {"decoder_start_token_id": 1, "pad_token_id": 2, "eos_token_id": 2}
SKILLS = ("full", "other", "rank2", "rank3")


def write_models(folder: Path, kind: str) -> dict[str, str]:
    """base, two full experts and two adapters of a kind: `plain`, `bos` and `eos` are decoders, `t5` is not.

    The kit's tokenizer puts a begin token before a choice for `bos`, and an end token behind it for `eos`. Returns
    label → reference in a recipe.
    """
    torch.manual_seed(0)
    base = _model(kind)
    for parameter in base.parameters():
        parameter.data.zero_()
    shift(base, 0.3, seed=0)
    for number, name in enumerate(("base", "full", "other")):
        model = _model(kind)
        model.load_state_dict(base.state_dict())
        shift(model, 0.1 * number, seed=number)
        model.save_pretrained(folder / name)
        _save_tokenizer(kind, folder / name)
    for rank in (2, 3):
        _write_adapter(kind, folder, rank)
    found = {name: str(folder / name) for name in ("base", "full", "other")}
    return found | {f"rank{rank}": f"{folder / 'base'}+{folder / f'rank{rank}'}" for rank in (2, 3)}


def _model(kind: str) -> PreTrainedModel:
    if kind == "t5":
        return T5ForConditionalGeneration(T5Config(vocab_size=len(char_tokenizer()), **T5, **T5_IDS))
    # A rope_theta that is not the default shows whether the kit's transformers reads it.
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "bos_token_id": 1, "eos_token_id": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(char_tokenizer()), tie_word_embeddings=True, **LLAMA, **rope))


def _save_tokenizer(kind: str, folder: Path) -> None:
    if kind == "eos":
        _llama_tokenizer().save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizer"}
        path.write_text(json.dumps(settings))
    else:
        char_tokenizer(bos=kind == "bos", eos=kind == "t5").save_pretrained(folder)


def _llama_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, in the form of Llama's tokenizers."""
    characters = string.ascii_letters + string.digits + string.punctuation + "\n▁"
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *characters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _write_adapter(kind: str, folder: Path, rank: int) -> None:
    family = "t5" if kind == "t5" else "llama"
    model = _model(kind)
    targets = [*TARGETS[family], "v" if kind == "t5" else "v_proj"]
    patterns: dict[str, Any] = {"rank_pattern": {targets[0]: rank + 1}, "alpha_pattern": {targets[1]: 5}}
    config = LoraConfig(r=rank, lora_alpha=3, target_modules=targets, use_rslora=rank == 3, **patterns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(rank)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder / f"rank{rank}")


def write_run(folder: Path, method: str, base: str, experts: Mapping[str, Mapping[str, Any]], **keys: Any) -> Path:
    """The folder of a run whose winner merges these experts, each with its parameters."""
    folder.mkdir(parents=True)
    listed = [{"model": model, "parameters": dict(values)} for model, values in experts.items()]
    recipe = {"merge_method": method, "base_model": base, "models": listed, "dtype": "float32", **keys}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"dtype": "float32", "device": "cpu"}}))
    (folder / "result.json").write_text("{}")
    return folder


def add_result(run: Path, experts: Mapping[str, str]) -> None:
    """Write what a finished search with rules knows: labels of experts, verdicts, rows and tests."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= {"experts": dict(experts), "method": "linear", "scorer": {"tasks": [{"name": "law", "spec": {"a": "b"}}]}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    verdicts = [
        {"rule": "licence", "model": label, "status": "ok", "reason": f"mit|{label}", "remedy": ""} for label in experts
    ]
    scores = {"search": 0.5, "select": 0.4, "holdout": 0.25}
    row = {"label": "base", "role": "baseline", "scores": scores, "tasks": {"law": 0.25}}
    tested = {"label": "base", "difference": 0.5, "interval": {"low": 0.4, "high": 0.6}, "p": 0.01, "corrected": 0.02}
    result = {
        "rules": {"name": "lmc2024", "verdicts": verdicts},
        "rows": [row, {**row, "label": "winner", "role": "winner", "scores": {**scores, "holdout": 0.75}}],
        "comparisons": [{**tested, "test": "McNemar", "verdict": "better"}],
        "difference": 0.5,
        "interval": tested["interval"],
        "best_baseline": "base",
        "verdict": "better",
        "counts": {"candidates": 12},
        "seconds": {"this_time": 34.5},
    }
    (run / "result.json").write_text(json.dumps(result))


def write_inputs(path: Path, rows: int, choices: Sequence[str] | None = None, seed: int = 0) -> Path:
    """A file of multiple-choice rows, or of generation rows without `choices`, with quotes, newlines and numbers."""
    draw = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "input", "target", "answer_choices", "eval_type"])
        for number in range(rows):
            words = " ".join("".join(draw.choices(string.ascii_lowercase, k=4)) for _ in range(5))
            text = f'{words}, "{number}"\nAnswer:'
            given = str(draw.sample(choices, 3)) if choices else "None"
            kind = "multiple_choice" if choices else "generation"
            writer.writerow([number * 7, text, 1 if choices else words, given, kind])
    return path
