"""What a search has spent and saved so far, as the words that the terminal shows below its bar."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

SEPARATOR = "  ·  "


@dataclass(frozen=True)
class SearchStatus:
    """The numbers of a search: items, the time of its workers in seconds, and the workers that there are now.

    `wall` is the time in which the workers had jobs to do. `tree_share` is the share of the prompts' tokens that token
    trees compute; None before the prompts are encoded.
    """

    spent: float
    saved: float
    wall: float
    busy: float
    writing: float
    workers: int
    tree_share: float | None = None

    def parts(self) -> Iterator[str]:
        """The words for each number that is known."""
        if self.spent:
            yield f"{self.spent:,.0f} items spent"
        if self.saved > 0:
            yield f"{self.saved:,.0f} saved by races"
        if self.tree_share is not None and self.tree_share < 1:
            yield f"{1 - self.tree_share:.0%} of tokens saved by trees"
        if (available := self.wall * self.workers) > 0 and self.busy > 0:
            whole = max(available, self.busy)
            shares = self.writing / whole, (self.busy - self.writing) / whole, 1 - self.busy / whole
            yield "write {:.0%}, score {:.0%}, idle {:.0%}".format(*shares)
        if self.workers:
            yield f"{self.workers} worker{'s' * (self.workers > 1)}"


@dataclass(frozen=True)
class StatusLines:
    """Parts with dots between them; a line is broken between two parts only, or within one that is wider than it."""

    parts: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = ""
        for part in self.parts:
            longer = f"{line}{SEPARATOR}{part}" if line else part
            if line and cell_len(longer) > options.max_width:
                yield Text(line, style="dim")
                longer = part
            line = longer
        yield Text(line, style="dim")
