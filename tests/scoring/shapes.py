"""Random tiny models of several shapes over the characters of the tests' tokenizer."""

from collections.abc import Callable

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

VOCABULARY = 99
IDS = {"bos_token_id": 1, "eos_token_id": 2}
ROTARY = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)


def llama(**changes: int) -> PreTrainedModel:
    sizes = {"max_position_embeddings": 512, "initializer_range": 0.5, **ROTARY, **IDS, **changes}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes))


def gpt2() -> PreTrainedModel:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.5}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes, **IDS))


def mistral() -> PreTrainedModel:
    """Attention that sees 8 tokens back."""
    sizes = {"max_position_embeddings": 512, "initializer_range": 0.5, "sliding_window": 8, **ROTARY, **IDS}
    return MistralForCausalLM(MistralConfig(vocab_size=VOCABULARY, **sizes))


def t5() -> PreTrainedModel:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    start = {"decoder_start_token_id": 1, "pad_token_id": 2, "eos_token_id": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, initializer_factor=4.0, **sizes, **start))


SHAPES: dict[str, Callable[[], PreTrainedModel]] = {"llama": llama, "gpt2": gpt2, "mistral": mistral, "t5": t5}


def made(shape: str) -> PreTrainedModel:
    """The model of that shape, the same weights every time."""
    torch.manual_seed(0)
    return SHAPES[shape]().eval()
