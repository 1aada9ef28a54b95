"""A stop sequence is found at the token at which lm-eval finds it, for tokenizers whose texts depend on neighbours."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lm_eval.models.utils_hf import MultiTokenEOSCriteria
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evomerge.scoring.engine.stops import StopSequences

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIAL = ["<unk>", "<s>", "</s>", "<|end|>"]
WORDS = [
    "▁",
    "▁▁▁",
    "▁the",
    "a▁b",
    "▁a",
    "b",
    "ab",
    "\n",
    ".",
    "?",
    "▁?",
    "'",
    "▁'",
    "你",
    "好",
    "\n\n",
    "Q",
    "Q:",
    ":",
]
UNTIL = [
    *(
        ["\n"],
        ["\n\n", "Q:"],
        ["</s>"],
        ["<|end|>", "."],
        ["b"],
        ["ab"],
        ["好"],
        ["你好"],
        ["é"],
        [" "],
        ["a b"],
        [" ?"],
    ),
    *(["a'"], [":", "the a"], ["�"], ["A"], ["Ab"], ["##b"], ["never said"], ["b\n", "?", "你b"]),
]


def byte_level() -> Tokenizer:
    """Byte-level BPE with tokens that are parts of characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("Ġ", "t"), ("a", "b"), ("Ċ", "Ċ"), ("Q", ":"), ("ä", "½"), ("Ġ", "a"), ("Ã", "©")]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet, *(a + b for a, b in pairs)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def pieces(decoder: Any, words: list[str]) -> Tokenizer:
    """Whole words, and bytes for the decoders that join them."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *words, *BYTES])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.decoder = decoder
    return tokenizer


def sentencepiece(*more: Any) -> Any:
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *more])


TOKENIZERS = {
    "byte level": byte_level,
    "gemma": lambda: pieces(sentencepiece(), WORDS),
    "llama 2": lambda: pieces(sentencepiece(decoders.Strip(" ", 1, 0)), WORDS),
    "metaspace": lambda: pieces(decoders.Metaspace(), WORDS),
    "wordpiece": lambda: pieces(decoders.WordPiece(), ["a", "##b", "b", "##", "?", "'", "s"]),
    "suffix": lambda: pieces(decoders.BPEDecoder("</w>"), ["a</w>", "b", "ab</w>", "?</w>"]),
    "none": lambda: pieces(None, WORDS),
}
APPENDING = {"byte level", "gemma", "llama 2", "metaspace"}


def made(name: str, **options: Any) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=TOKENIZERS[name](), unk_token="<unk>", bos_token="<s>", eos_token="</s>", **options
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|end|>", special=True)]})
    return tokenizer


def answers(tokenizer: PreTrainedTokenizerFast, count: int) -> Iterator[list[int]]:
    """Answers of tokens drawn at random: from all of the vocabulary, from a few, or from bytes of characters."""
    draw = random.Random(1)
    text = [i for part in ("你好", "é", "A", "b") for i in tokenizer.encode(part, add_special_tokens=False)]
    known = tokenizer.get_vocab()
    split = [known[f"<0x{byte:02X}>"] for byte in "你Aé".encode() if f"<0x{byte:02X}>" in known]
    for _ in range(count):
        some = draw.choice(
            [range(len(tokenizer)), draw.choices(range(len(tokenizer)), k=6), range(4, 24), text + split]
        )
        yield draw.choices([*some, *draw.choices(text, k=1)], k=14)


def found_by_lm_eval(tokenizer: PreTrainedTokenizerFast, until: list[str], tokens: list[int]) -> int | None:
    """The number of tokens at which lm-eval stops."""
    criteria = [MultiTokenEOSCriteria(text, tokenizer, 0, 1) for text in until]
    for count in range(1, len(tokens) + 1):
        if any([one(torch.tensor([tokens[:count]]), None) for one in criteria]):
            return count
    return None


def found_by_us(stops: StopSequences, tokens: list[int]) -> int | None:
    return next((count for count in range(1, len(tokens) + 1) if stops.reached([tokens[:count]])[0]), None)


@pytest.mark.parametrize("clean", [False, True], ids=["as it is", "cleaned"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_stop_is_found_where_lm_eval_finds_it(name: str, clean: bool) -> None:
    tokenizer = made(name, clean_up_tokenization_spaces=clean)
    listed = list(answers(tokenizer, 12))
    found = 0
    for until in UNTIL:
        stops = StopSequences(tokenizer, until)
        for tokens in listed:
            expected = found_by_lm_eval(tokenizer, until, tokens)
            assert found_by_us(stops, tokens) == expected, (until, tokenizer.convert_ids_to_tokens(tokens))
            found += expected is not None
    assert 10 < found < len(UNTIL) * len(listed)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_only_answers_that_may_stop_are_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = made(name)
    stops = StopSequences(tokenizer, ["Q:"])
    decoded: list[int] = []
    whole = tokenizer.batch_decode
    monkeypatch.setattr(tokenizer, "batch_decode", lambda rows: decoded.append(len(rows)) or whole(rows))
    tokens = [tokenizer.convert_tokens_to_ids("b")] * 30
    for count in range(1, 31):
        stops.reached([tokens[:count]] * 3)
    assert sum(decoded) == (3 * 2 if name in APPENDING else 3 * 30)
