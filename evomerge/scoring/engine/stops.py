"""Detection of stop sequences in answers that grow token by token; only answers that may have one are decoded."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # the decoded form of an incomplete character
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's form of a space
SPACED = {"Metaspace", "Replace", "Strip"}  # steps of a decoder that may remove a space at the beginning
BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


class Piece(Enum):
    """What a new token may do to the text of an answer."""

    HARMLESS = 0  # appends characters of which none is the last one of a stop sequence
    ENDING = 1  # appends the last character of a stop sequence
    DOUBTFUL = 2  # its text depends on the tokens around it


class StopSequences:
    """Detects stop sequences as lm-eval does: in the decoded last n + 2 tokens for a sequence of n tokens.

    `reached` must be called after each new token, because an answer whose newest token cannot end a stop sequence is
    not decoded. An answer with a token in its last tokens whose text depends on its neighbours, such as a part of a
    character, is always decoded. So is every answer if the tokenizer does more than append the text of each token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, until: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._by_width: dict[int, list[str]] = {}
        for text in until:
            width = len(tokenizer.encode(text, add_special_tokens=False)) + 2
            self._by_width.setdefault(width, []).append(text)
        self._longest = max(self._by_width, default=0)
        self._last = {text[-1:] for text in until}
        self._steps = _decoder_steps(tokenizer) if all(text and REPLACEMENT not in text for text in until) else None
        self._pieces: dict[int, Piece] = {}

    def reached(self, answers: Sequence[Sequence[int]]) -> list[bool]:
        """Whether the last tokens of each answer contain one of the stop sequences."""
        reached = [False] * len(answers)
        suspects = [place for place, tokens in enumerate(answers) if self._may_end(tokens)]
        for width, texts in self._by_width.items() if suspects else ():
            tails = self._tokenizer.batch_decode([list(answers[place][-width:]) for place in suspects])
            for place, tail in zip(suspects, tails, strict=True):
                reached[place] = reached[place] or any(text in tail for text in texts)
        return reached

    def _may_end(self, tokens: Sequence[int]) -> bool:
        """Whether the newest token may have completed a stop sequence.

        One token more than the longest tail counts: it has just left the tail, whose first text may have changed. The
        first tokens of an answer have no earlier call.
        """
        if self._steps is None or len(tokens) <= 2:
            return True
        pieces = [self._piece(token) for token in tokens[-self._longest - 1 :]]
        return pieces[-1] is Piece.ENDING or Piece.DOUBTFUL in pieces

    def _piece(self, token: int) -> Piece:
        if token not in self._pieces:
            self._pieces[token] = self._new_piece(token)
        return self._pieces[token]

    def _new_piece(self, token: int) -> Piece:
        text, name = str(self._tokenizer.decode([token])), str(self._tokenizer.convert_ids_to_tokens(token))
        steps = self._steps or frozenset()
        inner_space = "Metaspace" in steps and SPACE in name.lstrip(SPACE)
        if REPLACEMENT in text or inner_space or BYTE.fullmatch(name):
            return Piece.DOUBTFUL
        appended = {*text, " "} if steps & SPACED else set(text)
        return Piece.HARMLESS if self._last.isdisjoint(appended) else Piece.ENDING


def _decoder_steps(tokenizer: PreTrainedTokenizerBase) -> frozenset[str] | None:
    """The names of the decoder's steps, or None if the text of tokens may not be the texts of each in a row.

    Known steps append the text of each token, but for incomplete characters and for spaces at the beginning.
    """
    kind = type(tokenizer)
    plain = PreTrainedTokenizerFast
    if not isinstance(tokenizer, plain) or kind._decode is not plain._decode or kind.decode is not plain.decode:
        return None
    backend: Any = tokenizer.backend_tokenizer
    if backend.decoder is None or (tokenizer.clean_up_tokenization_spaces and not _keeps_spaces(tokenizer, backend)):
        return None
    steps = list(_steps(json.loads(backend.decoder.__getstate__())))
    return frozenset(step["type"] for step in steps) if all(map(_appends, steps)) else None


def _keeps_spaces(tokenizer: Any, backend: Any) -> bool:
    """Whether transformers ignores the request to remove spaces before punctuation, as it does for BPE."""
    switch = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    return type(backend.model).__name__ == "BPE" and getattr(tokenizer, switch, True) is False


def _steps(decoder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder


def _appends(step: Mapping[str, Any]) -> bool:
    """Whether a step of a decoder appends a text of its own for each token; see `_decoder_steps` for exceptions."""
    kind = step["type"]
    if kind == "Replace":
        return bool(step["pattern"] == {"String": SPACE} and step["content"] == " ")
    if kind == "Strip":
        return bool(step["content"] == " " and not step["stop"])
    if kind == "Metaspace":
        return bool(step["replacement"] == SPACE)
    return kind in ("ByteLevel", "ByteFallback", "Fuse")
