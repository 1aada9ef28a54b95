"""A thread that calls a function when nothing has been printed for a while, so that long work is seen to go on."""

import threading
import time
from collections.abc import Callable


class Heartbeat:
    """Calls `beat` whenever `interval` seconds have passed since the last call of it or of `reset`.

    The thread sleeps in between and ends with `stop`; the work itself may be in a long call of native code.
    """

    def __init__(self, interval: float, beat: Callable[[], None]) -> None:
        self._interval, self._beat = interval, beat
        self._last = time.monotonic()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; it does not keep the process alive."""
        self.reset()
        self._thread = threading.Thread(target=self._run, name="evomerge-progress", daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Begin a new interval, as something has been printed."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(max(0.0, self._last + self._interval - time.monotonic())):
            if time.monotonic() >= self._last + self._interval:
                self.reset()
                self._beat()
