"""The progress of a run: lines where there is no terminal, also while nothing ends."""

import io
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from rich.console import Console

from evomerge.report.console import Display
from evomerge.report.heartbeat import Heartbeat
from evomerge.terminal import duration


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=False)


def text(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def wait_for(ready: Callable[[], bool]) -> None:
    """Wait until something has happened in another thread; ten seconds are a failure."""
    end = time.monotonic() + 10
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_phase_without_news_prints_how_far_it_is(console: Console) -> None:
    with Display(console, 10, interval=0.02) as display:
        display.show_time_left(lambda: 240.0)
        for name, show, state in (
            ("tasks, models", lambda: None, "…"),
            ("prepare", lambda: display.show_preparation(3, 40), "3/40 tensors"),
            ("generation   2", lambda: display.work(5, 12), "5/12 chunks"),
            ("holdout", lambda: display.work(1, 9), "1/9 chunks"),
        ):
            display.show_phase(name)
            show()
            line = f"{name:<14}  {state}  0 s, about 4 min left\n"
            wait_for(lambda line=line: line in text(console))  # type: ignore[misc]


def test_a_line_puts_the_next_one_off(console: Console) -> None:
    with Display(console, 10, interval=3600) as display:
        display.print_line("news")
        display.work(1, 2)
    assert text(console) == "news\n"


def test_a_terminal_has_a_bar_and_no_thread() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with Display(console, 10, interval=0.01):
        assert not [thread for thread in threading.enumerate() if thread.name == "evomerge-progress"]


def test_a_phase_within_a_phase_ends_with_it(console: Console) -> None:
    with Display(console, 10, interval=0.02) as display:
        display.show_phase("generation   3")
        with display.phase("load model"):
            wait_for(lambda: "load model      …" in text(console))
        wait_for(lambda: "generation   3  …" in text(console))


def test_the_thread_ends_with_the_display_even_after_an_error(console: Console) -> None:
    with pytest.raises(ValueError, match="no"), Display(console, 10, interval=0.01):
        raise ValueError("no")
    assert not [thread for thread in threading.enumerate() if thread.name == "evomerge-progress"]
    before = text(console)
    time.sleep(0.05)
    assert text(console) == before


def test_beats_are_at_least_an_interval_apart() -> None:
    times: list[float] = []
    heartbeat = Heartbeat(0.05, lambda: times.append(time.monotonic()))
    heartbeat.start()
    wait_for(lambda: len(times) >= 4)
    heartbeat.stop()
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.045


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (119, "2 min"), (3569, "59 min"), (3571, "1.0 h"), (9000, "2.5 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
