"""Removes passwords and tokens from a configuration before others see it: in reports, trackers and on the hub."""

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
# The user and password of a URL, and the forms of tokens of the hub and of common services.
SECRETS = re.compile(r"(?<=://)[^/\s@]+(?=@)|\b(?:hf_|sk-|ghp_|glpat-)[\w-]{16,}")
SECRET_KEY = re.compile(r"(^|_)(password|secret|api_?key)$|^((hf|auth|use_auth|access|api)_)?token$", re.IGNORECASE)


def without_secrets(value: Any) -> Any:
    """The value of a configuration with *** in place of passwords in URLs, tokens, and texts under such keys."""
    if isinstance(value, Mapping):
        return {key: _entry(str(key), entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(entry) for entry in value]
    return SECRETS.sub(HIDDEN, value) if isinstance(value, str) else value


def _entry(key: str, value: Any) -> Any:
    return HIDDEN if isinstance(value, str) and SECRET_KEY.search(key) else without_secrets(value)
