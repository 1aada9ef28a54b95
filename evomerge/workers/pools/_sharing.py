"""How several searches share a cluster: each takes its fair number of workers, and knows the others by their notes."""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

SILENT_AFTER = 60.0  # seconds without a new note, after which a search counts as ended


class Notes(Protocol):
    """A small store of texts that all searches on a cluster can read and write."""

    def read(self) -> dict[str, str]:
        """Search → its last note."""

    def write(self, search: str, note: str) -> None:
        """Replace the note of a search."""

    def remove(self, search: str) -> None:
        """Remove the note of a search, if there is one."""


@dataclass
class _Seen:
    note: str
    since: float  # when this note was first seen


class SharedCluster:
    """One search among those that use a cluster; each writes a note, with a counter that shows that it is alive.

    A search that has been silent for SILENT_AFTER seconds no longer counts, so a killed one is forgotten. Clocks of
    different machines are not compared.
    """

    def __init__(self, notes: Notes, clock: Callable[[], float] = time.monotonic, name: str | None = None) -> None:
        self.name = name or f"{time.time():.3f}-{uuid.uuid4().hex[:8]}"  # earlier searches come first
        self._notes, self._clock = notes, clock
        self._count = 0
        self._seen: dict[str, _Seen] = {}

    def fair(self, workers: int, capacity: float) -> int:
        """The workers that this search may have of a cluster with room for `capacity` of them; at least one.

        `workers` is the number that it wants. Capacity and wishes of other searches, whose workers may be larger or
        smaller, are converted to workers of this search.
        """
        self._count += 1
        wanted = min(1.0, workers / capacity) if capacity else 1.0
        self._notes.write(self.name, json.dumps({"wants": wanted, "count": self._count}))
        shares = self._wishes()
        if len(shares) == 1:
            return workers
        wishes = {search: round(share * capacity) for search, share in shares.items()}
        return max(1, min(workers, divide(int(capacity), wishes)[self.name]))

    def others(self) -> int:
        """How many other searches there were at the last look."""
        return len(self._seen) - 1

    def leave(self) -> None:
        """Remove the note of this search."""
        self._notes.remove(self.name)

    def _wishes(self) -> dict[str, float]:
        """Living search → the share of the cluster that it wants, in a fixed order."""
        now, notes = self._clock(), self._notes.read()
        for search, note in notes.items():
            if search not in self._seen or self._seen[search].note != note:
                self._seen[search] = _Seen(note, now)
        for search in [name for name in self._seen if name not in notes]:
            del self._seen[search]
        for search, seen in list(self._seen.items()):
            if search != self.name and now - seen.since > SILENT_AFTER:
                self._notes.remove(search)  # one that was only paused writes again
                del self._seen[search]
        return {search: _wanted(seen.note) for search, seen in sorted(self._seen.items())}


def _wanted(note: str) -> float:
    """The share that a note asks for; the whole cluster if another version has written it."""
    try:
        return float(json.loads(note)["wants"])
    except (ValueError, TypeError, KeyError):
        return 1.0


def divide(capacity: int, wishes: Mapping[str, int]) -> dict[str, int]:
    """Deal out `capacity` workers in rounds, one to each search that wants more, in their order."""
    given = dict.fromkeys(wishes, 0)
    while capacity and (open_ := [search for search, wish in wishes.items() if given[search] < wish]):
        for search in open_[:capacity]:
            given[search] += 1
        capacity -= min(capacity, len(open_))
    return given
