"""The one line on standard error that every expected error becomes."""

from rich.console import Console


def complain(message: str, code: int) -> int:
    """Print one line on standard error, and return the exit code."""
    Console(stderr=True).print(f"evomerge: {message}", highlight=False, markup=False, soft_wrap=True)
    return code
