"""The comparison of generation: the shape of its rows and that both say the same, never how fast anything is."""

from pathlib import Path

import pytest

from evomerge.scoring.protocol import Request
from tests.scoring.conftest import char_tokenizer
from tests.scoring.shapes import made

BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"


def test_rows_say_who_answered_what_in_which_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from _generation import OURS, THEIRS, compare

    greedy = {"until": ["e"], "max_gen_toks": 8, "do_sample": False}
    requests = [Request("generate_until", (f"say {i}", greedy)) for i in range(6)]
    theirs, ours = compare(made("llama"), char_tokenizer(), requests, repeats=2)
    assert (theirs["name"], ours["name"]) == (THEIRS, OURS) and ours["ratio"] == 1.0
    assert ours["equal"] == ours["answers"] == 6 and ours["tokens"] == theirs["tokens"] > 0
    assert all(row["repeats"] == 2 and 0 < row["spread"][0] <= row["seconds"] for row in (theirs, ours))
