"""Lines for people: printed as they are, with durations and sizes in one form."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def print_line(console: "Console", text: str) -> None:
    """Print a line as it is: rich would take brackets in a path for markup, and break long lines."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """A duration in the largest unit of which there is at least one: seconds, minutes, or hours with a decimal."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3570 else f"{seconds / 3600:.1f} h"


def size(count: int) -> str:
    """Bytes in megabytes, or in gigabytes from a tenth of one on."""
    return f"{count / 1e6:.1f} MB" if count < 100e6 else f"{count / 1e9:.2f} GB"
