"""Calls of a tracker's library in a thread of its own, so that a network that hangs delays no search."""

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

logger = logging.getLogger(__name__)

LIMIT = 60.0  # seconds that one call may take
LIMITS_AT_END = 5  # as many times the limit may all calls take that are waited for at the end
POLL = 0.05  # seconds between two looks at a call that `finish` waits for
Call = Callable[[], None]


class TrackerCalls:
    """Makes calls one after the other; after the first one that raises or takes too long, no further call is made.

    Both cost one warning, which names the tracker. The thread does not keep the process alive.
    """

    def __init__(self, name: str, limit: float = LIMIT) -> None:
        self._name, self._limit = name, limit
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._begun: float | None = None  # when the call began that is going on
        self._lock = threading.Lock()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name=f"evomerge-{name}", daemon=True)
        self._thread.start()

    def add(self, call: Call) -> None:
        """Make a call after those that were added before; does not wait for it."""
        self._refuse_late_call()
        if not self._failed:
            self._calls.put(call)

    def finish(self) -> None:
        """Wait until all calls are made, as long as none takes longer than the limit and all together not too long."""
        self._calls.put(None)
        longest = LIMITS_AT_END * self._limit
        end = time.monotonic() + longest
        while self._thread.is_alive() and not self._failed:
            self._thread.join(POLL)
            self._refuse_late_call()
            if time.monotonic() > end:
                self._fail(f"{self._calls.qsize()} calls are still to be made {longest:g} seconds after the search")

    def _run(self) -> None:
        while (call := self._calls.get()) is not None and not self._failed:
            self._begun = time.monotonic()
            try:
                call()
            except Exception as error:  # errors of a library, the network or the disk must not stop the search
                self._fail(" ".join(str(error).split()) or type(error).__name__)
            self._begun = None

    def _refuse_late_call(self) -> None:
        begun = self._begun
        if begun is not None and time.monotonic() - begun > self._limit:
            self._fail(f"no answer in {self._limit:g} seconds")

    def _fail(self, reason: str) -> None:
        with self._lock:
            if not self._failed:
                logger.warning("tracker %s failed and is not used from here on: %s", self._name, reason)
            self._failed = True
