"""How many items each slice gets and how often a descent uses them, for a number of documents, a pace and a limit."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from evomerge.errors import ConfigError

# Over all tasks together. On a 135M model with four adapters, 200 items of search used three times gave .893 on unseen
# items (mean of five seeds), 100 items gave .865.
SEARCH, SELECT, HOLDOUT = 200, 400, 1200
LARGEST = {"search": 100, "select": 100, "holdout": 400}  # of one task
SMALLEST = {"search": 8, "select": 8, "holdout": 16}
FEWEST_DOCUMENTS = sum(SMALLEST.values())
USES = 600  # of items in a descent, together
PASSES = (3, 8)  # the fewest and the most uses of one item
FINALISTS = 4  # points of a descent that are scored on select
SEARCHED_FOR_EACH_USE = 9  # without a descent: items of races for each item that a descent would use
SPARE = 0.75  # of the time; loading, tables and a slower moment of the machine take the rest


@dataclass(frozen=True)
class Sizes:
    """Task → items of each slice, and the uses of each search item in a descent."""

    search: Mapping[str, int]
    select: Mapping[str, int]
    holdout: Mapping[str, int]
    passes: int

    @property
    def used(self) -> int:
        """Uses of search items by a descent."""
        return self.passes * sum(self.search.values())

    def parts(self, rows: int, price: float | None) -> dict[str, int]:
        """Items that the whole command scores, by what for, with `rows` baselines.

        `price` is that of an item with its slope; without one the search is an evolution with races.
        """
        return {
            "search": self.search_items(price),
            "baselines": rows * sum(self.search.values()),
            "select": (rows + FINALISTS) * sum(self.select.values()),
            "holdout": (rows + 1) * sum(self.holdout.values()),
        }

    def cost(self, rows: int, price: float | None) -> int:
        """The sum of `parts`."""
        return sum(self.parts(rows, price).values())

    def search_items(self, price: float | None) -> int:
        """The budget of the search in item equivalents."""
        return math.ceil(self.used * (price if price is not None else SEARCHED_FOR_EACH_USE))


def refuse_few(documents: Mapping[str, int]) -> None:
    """ConfigError for a task with too few documents."""
    for task, count in documents.items():
        if count < FEWEST_DOCUMENTS:
            raise ConfigError(
                f"task '{task}' has {count} different questions; it needs {FEWEST_DOCUMENTS} or more, for search, "
                f"choice and the final comparison"
            )


def choose_sizes(
    documents: Mapping[str, int], rows: int, price: float | None, affordable: float, items: int | None = None
) -> Sizes:
    """The largest sizes up to the ones above that cost at most `affordable` items in all.

    With `items`, the search costs so many item equivalents. ConfigError for a task with too few documents.
    """
    refuse_few(documents)
    whole = _scaled(documents, 1.0, price, items)
    if whole.cost(rows, price) <= affordable:
        return whole
    low, high = 0.0, 1.0
    for _ in range(20):  # bisection: the cost grows with the scale
        middle = (low + high) / 2
        fits = _scaled(documents, middle, price, items).cost(rows, price) <= affordable
        low, high = (middle, high) if fits else (low, middle)
    return _scaled(documents, low, price, items)


def _scaled(documents: Mapping[str, int], scale: float, price: float | None, items: int | None) -> Sizes:
    tasks = len(documents)

    def each(total: int, slice_: str, share: float) -> dict[str, int]:
        wanted = min(LARGEST[slice_], math.ceil(scale * total / tasks))
        return {task: max(SMALLEST[slice_], min(wanted, int(share * n))) for task, n in documents.items()}

    found = Sizes(each(SEARCH, "search", 0.25), each(SELECT, "select", 0.25), each(HOLDOUT, "holdout", 0.5), 1)
    uses = min(USES, USES * scale) if items is None else items / (price or SEARCHED_FOR_EACH_USE)
    passes = math.ceil(uses / sum(found.search.values()))
    return replace(found, passes=max(1 if items else PASSES[0], min(PASSES[1], passes)))
