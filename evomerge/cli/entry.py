"""The entry of the program: runs a command and turns every expected error into one line and an exit code."""

import os
import sys
from collections.abc import Sequence

from rich.console import Console

from evomerge.cli.messages import complain
from evomerge.cli.parser import run_command
from evomerge.errors import ConfigError, EvomergeError, remedy


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of `python -m evomerge` and of the console script; exits 0, 1 for a failure, 2 for usage."""
    try:
        code = run_command(list(sys.argv[1:] if arguments is None else arguments), Console())
    except EvomergeError as error:
        code = complain(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of a pipe has closed it
        code = 0
    except RecursionError:
        code = complain("a file is nested too deeply, or refers to itself; look at its anchors", ConfigError.exit_code)
    except OSError as error:
        code = complain(f"{error.filename or 'system'}: {error.strerror or error}; {remedy(error)}", 1)
    except KeyboardInterrupt:
        code = complain("interrupted; repeat the command to continue", 130)
    sys.exit(code)
