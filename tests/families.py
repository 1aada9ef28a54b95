"""Random tiny model families on disk, for every test that needs real checkpoints: nothing is trained or downloaded."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from evomerge.recipes.recipe import ModelRef

LLAMA_LAYERS = 3


@dataclass(frozen=True)
class Folders:
    """A base and experts of it, by reference."""

    base: ModelRef
    experts: tuple[ModelRef, ...]


def llama() -> PreTrainedModel:
    sizes = {"hidden_size": 12, "intermediate_size": 18, "vocab_size": 37, "num_hidden_layers": LLAMA_LAYERS}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=37, n_embd=12, n_layer=2, n_head=2, n_positions=16))


def t5() -> PreTrainedModel:
    sizes = {"vocab_size": 37, "d_model": 12, "d_kv": 6, "d_ff": 18, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))


BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {"llama": llama, "gpt2": gpt2, "t5": t5}
TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"], "t5": ["q", "wo"]}


@torch.no_grad()
def shift(model: nn.Module, scale: float, seed: int, chosen: Callable[[str], bool] = lambda name: True) -> None:
    """Adds scaled normal noise to the chosen parameters, in float64: an fp32 sum would make every difference exact."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in (parameter for name, parameter in model.named_parameters() if chosen(name)):
        noise = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.copy_(parameter.double() + noise)


def save_family(
    kind: str, folder: Path, dtype: torch.dtype = torch.float32, experts: int = 3, shard: str | None = None
) -> Folders:
    """Writes base, e0, e1, … below `folder`; the same weights on every call, in one file or in shards."""
    base = BUILDERS[kind]()
    for parameter in base.parameters():  # fresh values come from torch's global generator
        parameter.data.zero_()
    shift(base, 0.3, seed=0)
    options = {"max_shard_size": shard} if shard else {}
    for index, name in enumerate(("base", *(f"e{i}" for i in range(experts)))):
        model = copy.deepcopy(base)
        shift(model, 0.05 * index, seed=index)
        model.to(dtype).save_pretrained(folder / name, **options)
    return Folders(ModelRef(str(folder / "base")), tuple(ModelRef(str(folder / f"e{i}")) for i in range(experts)))


def with_adapters(kind: str, family: Folders, folder: Path) -> Folders:
    """The family with random adapters of its base, of ranks 2, 3, …, below `folder` in the place of its experts."""
    places = range(len(family.experts))
    refs = (save_adapter(kind, family.base, folder / f"a{i}", rank=2 + i, seed=i)[0] for i in places)
    return Folders(family.base, tuple(refs))


def save_adapter(kind: str, base: ModelRef, folder: Path, rank: int, seed: int) -> tuple[ModelRef, dict[str, Tensor]]:
    """Writes a random LoRA adapter of the base; returns its reference and peft's own dense merge of it."""
    model = type(BUILDERS[kind]()).from_pretrained(base.path, dtype=torch.float32)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS[kind], fan_in_fan_out=kind == "gpt2")
    with warnings.catch_warnings():  # peft asks transformers by a name that is on its way out
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)
    merged = {name: p.detach().clone() for name, p in adapted.merge_and_unload().named_parameters()}
    return ModelRef(base.path, adapter=str(folder)), merged


def save_tokenizer(words: list[str], folder: Path, template: str | None = None, inline: bool = False) -> None:
    """Writes a tokenizer of whole words, the last of which ends a text, with a chat template in a file or `inline`."""
    raw = Tokenizer(WordLevel({word: row for row, word in enumerate(words)}, unk_token=words[-2]))
    raw.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token=words[-2], eos_token=words[-1])
    made.chat_template = template
    made.save_pretrained(folder, save_jinja_files=not inline)
