"""A limit on the time of code that comes with a model or a task, such as a template that loops without end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OverdueError(Exception):
    """The code within a `time_limit` has taken too long."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OverdueError within the context after these seconds, where signals can do that: in the main thread.

    Code in C that does not return to Python is not interrupted.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise OverdueError(f"no end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
