"""The progress of a run: lines where there is no terminal, also while nothing ends."""

import io
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from evomerge.report.console import Display
from evomerge.report.heartbeat import Heartbeat
from evomerge.report.narrow import print_table
from evomerge.report.status import SearchStatus
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


# The live display


def board(label: str, score: float, stopped: int = 0) -> Any:
    return SimpleNamespace(best=lambda: (SimpleNamespace(label=label), score), stopped_count=stopped)


def status() -> SearchStatus:
    return SearchStatus(spent=12_345.0, saved=6789.0, wall=100.0, busy=150.0, writing=30.0, workers=2, tree_share=0.375)


def shown(width: int) -> tuple[list[str], Display]:
    """The lines of the live display at a width, as they stand on the screen, without colours."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    display = Display(console, 100)
    display.show_time_left(lambda: 240.0)
    display.show_status(status)
    display.generation(0, board("uniform", 0.5), [0.5])
    display.generation(1, board("1/3", 0.75), [0.75])
    display.work(5, 12)
    plain = Console(file=io.StringIO(), width=width, color_system=None)
    for renderable in display._progress.get_renderables():
        plain.print(renderable)
    return text(plain).splitlines(), display


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_live_display_fits_the_terminal(width: int) -> None:
    lines, _ = shown(width)
    assert all(len(line.rstrip()) <= width for line in lines)
    assert lines[0].startswith("generation   2 ") and "5/12" in lines[0] and "0:00:0" in lines[0]
    parts = [part.strip() for line in lines[1:] for part in line.split("·")]
    assert [part for part in parts if part] == [
        "best 0.7500 (1/3), +0.2500 on uniform",
        "12,345 items spent",
        "6,789 saved by races",
        "62% of tokens saved by trees",
        "write 15%, score 60%, idle 25%",
        "2 workers",
        "about 4 min left",
    ]


def test_what_is_not_known_is_not_shown() -> None:
    empty = SearchStatus(spent=0, saved=0, wall=0, busy=0, writing=0, workers=0)
    assert list(empty.parts()) == []
    one = SearchStatus(spent=10, saved=0, wall=2.0, busy=3.0, writing=0.0, workers=1, tree_share=1.2)
    assert list(one.parts()) == ["10 items spent", "write 0%, score 100%, idle 0%", "1 worker"]


def test_scores_that_a_race_has_estimated_are_marked(console: Console) -> None:
    with Display(console, 10, interval=3600) as display:
        display.generation(1, board("1/3", 0.75, stopped=0), [0.75, 0.5])
        display.generation(2, board("1/3", 0.75, stopped=1), [0.7, 0.5])
        display.generation(3, board("1/3", 0.75, stopped=1), [0.7, 0.5])
    first, second, third = text(console).splitlines()
    assert "best 0.7500" in first and "this generation 0.7500 mean 0.6250" in first
    assert "best 0.7500" in second and "this generation ~0.7000 mean ~0.6000" in second
    assert "~" not in third


# Tables on narrow terminals


def wide_table() -> Table:
    table = Table(caption="the claim", caption_justify="left")
    table.add_column("model")
    for name in ("search", "select", "holdout", *(f"task {place}" for place in range(6))):
        table.add_column(name, justify="right")
    for row in range(3):
        table.add_row(f"model {row}", *(f"{0.1 * row:.4f}" for _ in range(9)))
    return table


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_has_whole_cells_at_every_width(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_table(console, wide_table())
    lines = text(console).splitlines()
    assert all(len(line.rstrip()) <= width for line in lines) and "…" not in text(console)
    assert text(console).count("0.2000") == 9 and text(console).count("the claim") == 1
    for name in ("search", "holdout", "task 0", "task 5"):
        assert text(console).count(name) == 1
    assert sum(line.count("model 2") for line in lines) == text(console).count("model 0")


def test_the_title_of_a_table_that_does_not_fit_stands_once_above_its_parts() -> None:
    console = Console(file=io.StringIO(), width=60, color_system=None)
    table = wide_table()
    table.title = "nine runs"
    print_table(console, table)
    assert text(console).startswith("nine runs\n") and text(console).count("nine runs") == 1


def test_a_table_that_fits_is_printed_as_it_is() -> None:
    ours, theirs = (Console(file=io.StringIO(), width=200, color_system=None) for _ in range(2))
    print_table(ours, wide_table())
    theirs.print(wide_table())
    assert text(ours) == text(theirs)
