"""A hint for a misspelt word."""

import difflib
from collections.abc import Iterable


def nearest(word: object, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing where no known word is near."""
    found = difflib.get_close_matches(str(word), [str(name) for name in known], n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""
