"""Random tiny model families: a base and experts that differ from it by random deltas, all fp32."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

VOCABULARY = 40
HIDDEN = 16


@dataclass(frozen=True)
class Family:
    """Folders of one base and its experts; `twin` is almost parallel to the base.

    `far` is unrelated to it, `mirror` its negative. One tensor is zero in the base, another in `mirror`.
    """

    base: str
    experts: tuple[str, ...]
    twin: str
    far: str
    mirror: str
    layers: int


def llama(layers: int, tied: bool) -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=24,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            tie_word_embeddings=tied,
        )
    )


def gpt2(layers: int) -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=layers, n_head=2, n_positions=32, n_inner=24)
    )


def t5(layers: int) -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=HIDDEN,
            d_kv=8,
            d_ff=24,
            num_layers=layers,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
        )
    )


BUILDERS: dict[str, tuple[Callable[[], PreTrainedModel], int]] = {
    "llama": (lambda: llama(2, tied=False), 2),
    "llama-tied": (lambda: llama(2, tied=True), 2),
    "llama-deep": (lambda: llama(4, tied=False), 4),
    "gpt2": (lambda: gpt2(2), 2),
    "t5": (lambda: t5(2), 2),
}
# The same models, stored in the short type that most checkpoints have.
STORED = {"llama-bf16": ("llama", torch.bfloat16)}


def build(name: str, folder: Path) -> Family:
    """Writes the family `name` of `BUILDERS` or `STORED` below `folder`."""
    name, dtype = STORED.get(name, (name, torch.float32))
    builder, layers = BUILDERS[name]
    generator = torch.Generator().manual_seed(sum(name.encode()))
    torch.manual_seed(sum(name.encode()))  # the builders draw their weights from the global generator
    model = builder().float()
    # A fresh model has constant norms and zero biases, on which most mistakes do not show.
    shift(model, 0.3, generator)
    blank(model, 0)
    base = {key: value.clone() for key, value in model.state_dict().items()}
    members = {"base": 0.0, "e1": 0.1, "e2": 0.2, "e3": 0.05, "twin": 1e-3, "far": 2.0, "mirror": 0.0}
    for member, scale in members.items():
        model.load_state_dict(base)
        shift(model, scale, generator)
        if member == "mirror":
            reflect(model)
        copy.deepcopy(model).to(dtype).save_pretrained(folder / member)
    path = {member: str(folder / member) for member in members}
    return Family(path["base"], (path["e1"], path["e2"], path["e3"]), path["twin"], path["far"], path["mirror"], layers)


@torch.no_grad()
def shift(model: PreTrainedModel, scale: float, generator: torch.Generator) -> None:
    for parameter in model.parameters():
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def blank(model: PreTrainedModel, index: int) -> None:
    """Zeroes one of the vectors: a tensor without a direction, such as the bias of a fresh layer."""
    [parameter for parameter in model.parameters() if parameter.ndim == 1][index].zero_()


@torch.no_grad()
def reflect(model: PreTrainedModel) -> None:
    for parameter in model.parameters():
        parameter.neg_()
    blank(model, 1)
