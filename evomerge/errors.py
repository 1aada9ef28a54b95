"""Everything evomerge raises on purpose, as one tree.

EvomergeError
├── ConfigError      a key, a value or a command that cannot be meant: exit code 2
├── ExpertError      a checkpoint, an adapter or a tensor that does not fit
├── TaskError        a task, a metric or a slice that cannot be scored
├── CandidateError   one recipe that cannot be built or scored: a failed trial, never the end of a search
└── RunError         a run folder that cannot be continued or written

Each message is one line that names the file, key or tensor and says what to do about it.
"""


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
