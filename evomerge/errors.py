"""The exceptions of evomerge, their exit codes, and remedies for errors of the operating system.

EvomergeError
├── ConfigError      an invalid key, value or command: exit code 2
│   └── UsageError   an unknown command
├── ExpertError      a checkpoint, adapter or tensor that does not fit the base
│   └── SeveralExpertsError   a line for each model
├── RulesError       models or a budget that break a rule of the contest
├── TaskError        a task, a metric or a slice that cannot be scored
├── CandidateError   one recipe that cannot be merged or scored: a failed trial; the search continues
└── RunError         a run folder that cannot be read, continued or written

Each message is one line, or one for each model or rule. It names the file, key or tensor, and says what to do about it.
"""

import errno
import re

MAX_LENGTH = 2500  # characters of a message
BREAKS = re.compile(r"[\t-\r\x1c-\x1f\x85\u2028\u2029]+")  # of a line, and tabs

REMEDIES = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free space within the quota",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "mount it writable",
    errno.EBUSY: "mount its folder instead (a file that is mounted alone cannot be replaced)",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.ENOENT: "make its folder first",
    errno.ENOTDIR: "move away the file that stands where a folder has to be",
    errno.EEXIST: "move away the file that stands where a folder has to be",
    errno.EISDIR: "move away the folder that stands where a file has to be",
    errno.EIO: "look at the disk",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


class EvomergeError(Exception):
    """Base class; the command line prints its message without a traceback.

    Whatever a message quotes, it is printable text of at most MAX_LENGTH characters, and one line unless the class has
    `lines`.
    """

    exit_code = 1
    lines = False

    def __init__(self, message: str) -> None:
        super().__init__(_printable(message, self.lines))


class ConfigError(EvomergeError):
    """An invalid key, value or command."""

    exit_code = 2


class ExpertError(EvomergeError):
    """A checkpoint, an adapter or a tensor that does not fit the base."""


class SeveralExpertsError(ExpertError):
    """What is wrong with each of several models: a line for each, made of texts without breaks."""

    lines = True


class UsageError(ConfigError):
    """An unknown command: a page that lists the commands."""

    lines = True


class RulesError(EvomergeError):
    """Models or a budget that break a rule of the contest: a line for each rule and model."""

    lines = True


class TaskError(EvomergeError):
    """A task, a metric or a slice that cannot be scored."""


class CandidateError(EvomergeError):
    """One recipe that cannot be merged or scored; the search records it and continues."""


class RunError(EvomergeError):
    """A run folder that cannot be read, continued or written."""


def _printable(message: str, lines: bool) -> str:
    """The message with escapes for what cannot be printed, on one line; the middle of a long one is left out."""
    text = BREAKS.sub(lambda match: "\n" if lines and "\n" in match[0] else " ", str(message))
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH // 2 - 1]} … {text[3 - MAX_LENGTH // 2 :]}"


def remedy_for(error: Exception) -> str:
    """The remedy for a file that could not be written, from the error number of the exception."""
    number = getattr(error, "errno", None)
    if number is None and (match := re.search(r"os error (\d+)", str(error))):  # safetensors has it only in its message
        number = int(match[1])
    return REMEDIES.get(number or 0, "look at its permissions")


def write_error(path: object, error: Exception) -> RunError:
    """The RunError for a file of a run that could not be written, with the remedy."""
    reason = getattr(error, "strerror", None) or error
    return RunError(f"{path}: {reason}; {remedy_for(error)} and repeat the command, nothing is lost")
