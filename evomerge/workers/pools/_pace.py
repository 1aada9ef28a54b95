"""The longest time that a worker may take, learnt from how long the same work has taken before."""

FACTOR = 6.0  # times the longest known duration of the same work
KNOWN = 60.0  # seconds that a chunk of known duration may take at least
UNKNOWN = 600.0  # the same for a chunk that has not been scored yet, and for loading the model
UNTIMED = 3600.0  # the same before anything at all has been timed
FIRST = 300.0  # seconds more for the first job of a worker: compilation, cold caches
GROWTH = 4.0  # factor for each time that a job was given up: no limit that is too low may fail a candidate


class Pace:
    """Durations of finished work by name, and the limits that follow from them.

    With `fixed`, every limit is that number of seconds for a job, before `GROWTH`.
    """

    def __init__(self, fixed: float | None = None) -> None:
        self._fixed = fixed
        self._longest: dict[str, float] = {}

    def record(self, name: str, seconds: float) -> None:
        """Add a duration of the work `name`, a chunk's id for instance."""
        self._longest[name] = max(seconds, self._longest.get(name, 0.0))

    def usual(self, name: str) -> float | None:
        """The longest duration so far of this work, or of any work if it is new; None if nothing was timed."""
        return self._longest.get(name, max(self._longest.values(), default=None))

    def limit(self, name: str, *, is_first: bool = False, tries: int = 0) -> float:
        """Seconds after which a worker is given up that has this work; `tries` is how often the job was given up."""
        if self._fixed is not None:
            return self._fixed * GROWTH**tries
        if (usual := self.usual(name)) is None:
            return UNTIMED * GROWTH**tries
        floor = KNOWN if name in self._longest else UNKNOWN
        return (max(floor, FACTOR * usual) + FIRST * is_first) * GROWTH**tries
