"""Lines that a user should see once, however often and in however many places a folder is opened."""

import logging
from functools import cache

log = logging.getLogger(__name__)


@cache
def warn_once(line: str) -> None:
    """Log a warning, unless this process has logged the same one."""
    log.warning("%s", line)
