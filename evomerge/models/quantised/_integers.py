"""Unsigned integers of a few bits, packed into 32-bit words."""

import torch
from torch import Tensor

WORD = 32
_MASK = (1 << WORD) - 1


def unpack_words(words: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` integers in each column of int32 words, lowest bits first; they may cross two words."""
    stream = words.to(torch.int64) & _MASK
    places = torch.arange(count) * bits
    word, shift = places // WORD, (places % WORD).unsqueeze(1)
    found = stream[word] >> shift
    following = stream[(word + 1).clamp(max=len(stream) - 1)] << (WORD - shift)
    crosses = shift + bits > WORD
    return (torch.where(crosses, found | following, found) & ((1 << bits) - 1)).to(torch.int32)
