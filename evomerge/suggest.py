"""Suggestions for misspelt words in messages."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The text ` (did you mean 'x'?)` with the closest known word, or an empty text if none is similar."""
    matches = difflib.get_close_matches(str(word), [str(name) for name in known], n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
