"""The one line on standard error that every expected error becomes."""

from rich.console import Console

from evomerge.terminal import print_line


def complain(message: str, code: int) -> int:
    """Print one line on standard error, and return the exit code."""
    print_line(Console(stderr=True), f"evomerge: {message}")
    return code
