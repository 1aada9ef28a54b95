"""The entry of the program: runs a command and turns every expected error into one line and an exit code."""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence

from rich.console import Console

from evomerge.cli.messages import complain
from evomerge.cli.parser import run_command
from evomerge.cli.sweep import end_with_parent
from evomerge.errors import ConfigError, EvomergeError, remedy_for

INTERRUPTED, INTERRUPTED_LINE = 130, "interrupted; repeat the command to continue"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of `python -m evomerge` and of the console script; exits 0, 1 for a failure, 2 for usage."""
    interrupts: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    with contextlib.suppress(ValueError):  # only the main thread may set it, and gets signals
        signal.signal(signal.SIGINT, interrupt)
    end_with_parent()
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
    except Exception:
        if not interrupts:
            raise
        code = complain(INTERRUPTED_LINE, INTERRUPTED)  # a library has replaced the exception by one of its own
    except KeyboardInterrupt:
        code = complain(INTERRUPTED_LINE, INTERRUPTED)
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    """The exit code of a command; its expected errors are printed as one line."""
    try:
        return run_command(list(arguments), Console())
    except EvomergeError as error:
        return complain(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of a pipe has closed it
        return 0
    except RecursionError:
        return complain("a file is nested too deeply, or refers to itself; look at its anchors", ConfigError.exit_code)
    except OSError as error:
        return complain(f"{error.filename or 'system'}: {error.strerror or error}; {remedy_for(error)}", 1)
