"""Everything evomerge raises on purpose, as one tree.

EvomergeError
├── ConfigError      a key, a value or a command that cannot be meant: exit code 2
├── ExpertError      a checkpoint, an adapter or a tensor that does not fit
├── TaskError        a task, a metric or a slice that cannot be scored
├── CandidateError   one recipe that cannot be built or scored: a failed trial, never the end of a search
└── RunError         a run folder that cannot be continued or written

Each message is one line that names the file, key or tensor and says what to do about it.
"""

import errno
import re

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
    """Root of the tree; the command line prints its message without a traceback."""

    exit_code = 1


class ConfigError(EvomergeError):
    """A key, a value or a command that cannot be meant."""

    exit_code = 2


class ExpertError(EvomergeError):
    """A checkpoint, an adapter or a tensor that does not fit the base."""


class TaskError(EvomergeError):
    """A task, a metric or a slice that cannot be scored."""


class CandidateError(EvomergeError):
    """One recipe that cannot be built or scored; the search records it and goes on."""


class RunError(EvomergeError):
    """A run folder that cannot be read, continued or written."""


def remedy(error: Exception) -> str:
    """What to do about a file that the system does not let us write, by the reason that it gives."""
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"os error (\d+)", str(error))):  # safetensors only says it in words
        number = int(found[1])
    return REMEDIES.get(number or 0, "look at its permissions")


def unwritable(path: object, error: Exception) -> RunError:
    """The one line about a file of a run that could not be written."""
    reason = getattr(error, "strerror", None) or error
    return RunError(f"{path}: {reason}; {remedy(error)} and repeat the command, nothing is lost")
