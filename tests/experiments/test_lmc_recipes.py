"""The competition's entries as recipes and experiments: they parse, and merge tiny models by the reports' formulas."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from evomerge.experiment import describe, from_config
from evomerge.export import merge_recipe
from evomerge.recipes import load_recipe
from tests.cli.test_conf import composed
from tests.conftest import ROOT
from tests.families import save_tokenizer, shift
from tests.lmc_files import write_lmc_files

RECIPES = ROOT / "experiments" / "lmc" / "recipes"
EXPERIMENTS = ("lmc", "lmc_dare_ties", "lmc_knots", "lmc_selection")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?:@[0-9a-f]{40})?")
WORDS = ["A", "B", "C", "D", "?", *(str(n) for n in range(40)), "<unk>", "</s>"]
LAYERS = 5
Tensors = dict[str, Tensor]


def llama() -> PreTrainedModel:
    sizes = {"hidden_size": 12, "intermediate_size": 18, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=len(WORDS), num_key_value_heads=1))


def t5() -> PreTrainedModel:
    sizes = {"d_model": 12, "d_kv": 6, "d_ff": 18, "num_layers": 3, "num_heads": 2}
    ids = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": len(WORDS) - 1}
    return T5ForConditionalGeneration(T5Config(vocab_size=len(WORDS), **sizes, **ids))


def of_architecture(hub_id: str) -> PreTrainedModel:
    return t5() if "t5" in hub_id else llama()


def save_full(hub_id: str, folder: Path, seed: int) -> None:
    """A model of the architecture; all have the weights of one seed, plus a change of their own."""
    torch.manual_seed(0)
    model = of_architecture(hub_id)
    shift(model, 0.1, seed=seed)
    model.save_pretrained(folder)
    save_tokenizer(WORDS, folder)
    if model.config.is_encoder_decoder:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.post_processor = TemplateProcessing("$A </s>", special_tokens=[("</s>", len(WORDS) - 1)])
        tokenizer.save(str(folder / "tokenizer.json"))


def save_lora(hub_id: str, base: Path, folder: Path, rank: int, seed: int) -> None:
    model = type(of_architecture(hub_id)).from_pretrained(base, dtype=torch.float32)
    targets = ["q", "v"] if "t5" in hub_id else ["q_proj", "v_proj"]
    with warnings.catch_warnings():  # peft asks transformers by a name that is on its way out
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)


@dataclass(frozen=True)
class Small:
    """A recipe whose hub ids are folders of tiny models: `models` maps ids to folders, `made` is the merge."""

    models: Mapping[str, Path]
    made: Tensors

    def full(self, part: str) -> Tensors:
        return load_file(self._folder(part) / "model.safetensors")

    def factors(self, part: str) -> dict[str, tuple[Tensor, Tensor]]:
        """Tensor → (B, A) of an adapter."""
        tensors = load_file(self._folder(part) / "adapter_model.safetensors")
        names = [name.removesuffix(".lora_A.weight") for name in tensors if "lora_A" in name]
        return {
            f"{name.removeprefix('base_model.model.')}.weight": (
                tensors[f"{name}.lora_B.weight"],
                tensors[f"{name}.lora_A.weight"],
            )
            for name in names
        }

    def _folder(self, part: str) -> Path:
        (found,) = [folder for hub_id, folder in self.models.items() if part in hub_id]
        return found


def small(name: str, folder: Path) -> Small:
    """The recipe in float32, with a tiny model in the place of each hub id, merged."""
    lines = (RECIPES / f"{name}.yaml").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("bfloat16", "float32")
    base = re.search(r"^base_model: (\S+)$", text, re.MULTILINE)[1]
    models: dict[str, Path] = {}
    for line in re.findall(r"(?:base_model|- model): (\S+)", text):
        for seed, hub_id in enumerate(HUB_ID.findall(line)):
            if hub_id not in models:
                models[hub_id] = folder / f"m{len(models)}"
                if seed:
                    rank = 8 if "FinGPT" in hub_id else 16
                    save_lora(base, models[base], models[hub_id], rank, len(models))
                else:
                    save_full(hub_id, models[hub_id], len(models))
    for hub_id in sorted(models, key=len, reverse=True):
        text = text.replace(hub_id, str(models[hub_id]))
    (folder / "recipe.yaml").write_text(text)
    merge_recipe(folder / "recipe.yaml", folder / "out")
    return Small(models, load_file(folder / "out" / "model.safetensors"))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_parses_and_every_key_has_an_effect(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = load_recipe(path)
    assert not caplog.messages and recipe.out_dtype == "bfloat16"
    text = path.read_text()
    assert "https://github.com/" in text
    revisions = [ref.adapter_revision if ref.adapter else ref.revision for ref in recipe.models()]
    assert all(revisions) or path.stem == "llama3_refueled_slerp"  # its report names none


def test_the_slerp_gradients_are_those_of_the_formula(tmp_path: Path) -> None:
    merged = small("llama3_refueled_slerp", tmp_path)
    base, other = merged.full("Meta-Llama-3"), merged.full("Refueled")
    knots = {"self_attn": [0, 0.5, 0.3, 0.7, 1], "mlp": [1, 0.5, 0.7, 0.3, 0]}  # five layers: one value for each
    for name, found in merged.made.items():
        kind = next((kind for kind in knots if kind in name), None)
        t = knots[kind][int(name.split(".")[2])] if kind else 0.5
        one, two = base[name].double(), other[name].double()
        angle = torch.acos((one / one.norm() * (two / two.norm())).sum().clamp(-1, 1))
        parts = (torch.sin((1 - t) * angle), torch.sin(t * angle))
        expected = (parts[0] * one + parts[1] * two) / torch.sin(angle)
        if torch.cos(angle) > 0.9995:
            expected = (1 - t) * one + t * two
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "parts", "weights"),
    [("llama_avg", ("gsm8k", "FinGPT"), (0.8, 0.2)), ("flant5_avg", ("wiki_qa", "kilt"), (0.5, 0.5))],
)
def test_the_kits_averages_of_adapters_add_products_not_factors(
    tmp_path: Path, name: str, parts: tuple[str, str], weights: tuple[float, float]
) -> None:
    merged = small(name, tmp_path)
    base = merged.full("Llama-2-7b-hf" if name == "llama_avg" else "flan-t5-xl")
    one, other = (merged.factors(part) for part in parts)
    for tensor, found in merged.made.items():
        expected, kits = base[tensor].double(), base[tensor].double()
        if tensor in one:
            (b, a), (b2, a2) = one[tensor], other[tensor]
            expected = expected + 2 * weights[0] * (b @ a).double() + 2 * weights[1] * (b2 @ a2).double()
            pad = a.shape[0] - a2.shape[0]  # the kit puts zeros before the smaller factors
            a2, b2 = torch.nn.functional.pad(a2, (0, 0, pad, 0)), torch.nn.functional.pad(b2, (pad, 0))
            mixed = (weights[0] * b + weights[1] * b2) @ (weights[0] * a + weights[1] * a2)
            kits = kits + 2 * mixed.double()
            assert (kits - expected).norm() > 0.2 * (expected - base[tensor].double()).norm()
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_kits_average_of_checkpoints_is_the_same_as_ours(tmp_path: Path) -> None:
    merged = small("tiny_llama_avg", tmp_path)
    base, other = merged.full("TinyLlama_v1.1@"), merged.full("math_code")
    for name, found in merged.made.items():
        torch.testing.assert_close(found, 0.8 * base[name] + 0.2 * other[name], rtol=1e-5, atol=1e-6)


def test_the_geometric_median_is_that_of_the_unscaled_products(tmp_path: Path) -> None:
    merged = small("flant5_geometric_median", tmp_path)
    adapters = [merged.factors(hub_id) for hub_id in merged.models if "lorahub" in hub_id]
    base = merged.full("flan-t5-xl@")
    assert len(adapters) == 20 and all(re.search(r"\.[qv]\.weight$", name) for name in adapters[0])
    for name, found in merged.made.items():
        expected = base[name].double()
        if name in adapters[0]:
            deltas = torch.stack(
                [(factors[name][0].double() @ factors[name][1].double()).flatten() for factors in adapters]
            )
            median = deltas.mean(0)
            for _ in range(300):  # Weiszfeld
                weights = 1 / (deltas - median).norm(dim=1)
                median = weights @ deltas / weights.sum()
            expected = expected + median.view(expected.shape)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def with_small_models(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A composed experiment with the kit's files and tiny models in the place of its hub ids."""
    monkeypatch.setenv("LMC_DATA", str(write_lmc_files(folder / "data")))
    config = composed(f"+experiment={name}")
    base = str(config["base"])
    save_full(base, folder / "base", 0)
    experts = {}
    for seed, label in enumerate(config["experts"], 1):
        experts[label] = str(folder / label)
        if "t5" in base:
            save_lora(base, folder / "base", folder / label, 4, seed)
        else:
            save_full(base, folder / label, seed)
    model = {**config["model"], "dtype": "float32", "device": "cpu"}
    return config | {"base": str(folder / "base"), "experts": experts, "model": model, "rules": {}}


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.filterwarnings("ignore:.*searchpath.*")
def test_every_experiment_is_checked_and_its_rows_merge(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMC_DATA", str(write_lmc_files(tmp_path / "kit")))
    assert composed(f"+experiment={name}")["rules"]["name"] == "lmc2024"
    config = with_small_models(name, tmp_path, monkeypatch)
    lines = list(describe(config, tmp_path / "run"))
    assert any(line.startswith("tasks     cosmos_qa × 1, xsum × 1") for line in lines)
    experiment = from_config(config)
    if name == "lmc":
        assert experiment.needs_screening
        experiment = experiment.with_experts(list(experiment.experts)[:8])
    space = experiment.space
    assert all(space.decode(point).models() for point in space.example_points())
    names = " ".join(coordinate.name for coordinate in space.coordinates())
    assert {"lmc": "schedule", "lmc_dare_ties": "density.simpo", "lmc_knots": "weight.refueled.mlp[3]"}.get(
        name, "takes_part.refueled"
    ) in names
