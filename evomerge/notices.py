"""Warnings that are logged once per process, even if a folder is opened several times."""

import logging
from functools import cache

log = logging.getLogger(__name__)


@cache
def warn_once(line: str) -> None:
    """Log a warning unless this process has already logged the same text."""
    log.warning("%s", line)
