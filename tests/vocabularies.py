"""Tiny models whose tokenizers differ: added tokens, padding rows, another order; a token's row depends on its text."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

HIDDEN = 12
MERGES = (("a", "b"), ("ab", "c"), ("c", "d"), ("d", "e"), ("e", "f"), ("a", "d"))
PLAIN = ("<unk>", "</s>", *"abcdefgh", *("".join(merge) for merge in MERGES))


@dataclass(frozen=True)
class Model:
    """A model to write: its tokens in the order of rows, tokens that are added, rows of padding, and its weights."""

    tokens: Sequence[str] = PLAIN
    added: Sequence[str] = ()
    padding: int = 0
    seed: int = 0
    tied: bool = False
    kind: str = "llama"
    merges: Sequence[tuple[str, str]] = MERGES
    dtype: torch.dtype = torch.float32
    has_tokenizer: bool = True

    @property
    def rows(self) -> int:
        return len(self.tokens) + len(self.added) + self.padding


def write(folder: Path, model: Model) -> str:
    """Write model and tokenizer; returns the folder's path."""
    live = _t5(model) if model.kind == "t5" else _llama(model)
    with torch.no_grad():
        for name, parameter in live.named_parameters():
            noise = _random(name, 0, parameter.shape) * 0.3
            parameter.copy_(noise + 0.05 * model.seed * _random(name, model.seed, parameter.shape))
            if any(part in name for part in ("embed_tokens", "lm_head", "shared")):
                parameter.copy_(_table(name, model))
    live.to(model.dtype).save_pretrained(folder)
    if model.has_tokenizer:
        write_tokenizer(folder, model)
    return str(folder)


def write_tokenizer(folder: Path, model: Model) -> None:
    raw = Tokenizer(BPE({t: row for row, t in enumerate(model.tokens)}, list(model.merges), unk_token="<unk>"))
    raw.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    made.add_tokens(list(model.added), special_tokens=True)
    made.save_pretrained(folder)


def row_of(token: str, name: str, seed: int) -> Tensor:
    """The row of a token in a model with this seed, before a dtype rounds it."""
    return 0.3 * _random(name + token, 0, (HIDDEN,)) + 0.05 * seed * _random(name + token, seed, (HIDDEN,))


def _table(name: str, model: Model) -> Tensor:
    names = [*model.tokens, *model.added, *(f"padding {i}" for i in range(model.padding))]
    return torch.stack([row_of(token, name, model.seed) for token in names])


def _random(name: str, seed: int, shape: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
    return torch.randn(tuple(shape), generator=generator)


def _llama(model: Model) -> PreTrainedModel:
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 18, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": None, "eos_token_id": list(model.tokens).index("</s>"), "pad_token_id": None}
    config = LlamaConfig(**sizes, **ids, vocab_size=model.rows, tie_word_embeddings=model.tied)
    return LlamaForCausalLM(config)


def _t5(model: Model) -> PreTrainedModel:
    sizes = {"d_model": HIDDEN, "d_kv": 6, "d_ff": 18, "num_layers": 1, "num_heads": 2}
    ids = {"eos_token_id": list(model.tokens).index("</s>"), "pad_token_id": 0}
    more = {"decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu"}
    return T5ForConditionalGeneration(T5Config(**sizes, **ids, **more, vocab_size=model.rows))
