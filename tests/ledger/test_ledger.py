"""The journal: what survives a crash, a full disk and a second process, and what is refused."""

import contextlib
import errno
import fcntl
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import RunError
from evomerge.ledger.ledger import Ledger
from evomerge.ledger.reading import chunks_of, read_trials, refuse_other_search
from evomerge.ledger.records import Rechunking, Trial
from tests.toys import Run

HEADER: Mapping[str, Any] = {
    "config": {"seed": 1, "space": {"schedule": {"blocks": 2}}},
    "models": {"base": "00"},
    "chunks": {f"search/{i}": [f"toy/{2 * i}", f"toy/{2 * i + 1}"] for i in range(3)},
    "versions": {"torch": "1"},
}
RECIPE = {"merge_method": "linear"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "trials.jsonl"


def write(path: Path, chunks: int = 3, header: Mapping[str, Any] = HEADER) -> bytes:
    """A ledger with so many chunks of one candidate; its bytes."""
    ledger = Ledger(path, header)
    for i in range(chunks):
        ledger.append_scores("k", f"search/{i}", [0.5, float(i)], 0.25, RECIPE)
    ledger.close()
    return path.read_bytes()


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: the kernel refuses, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_what_the_guard_refuses_is_not_written(path: Path) -> None:
    changed = False

    def guard() -> None:
        if changed:
            raise RunError("other weights")

    ledger = Ledger(path, HEADER, guard=guard)
    ledger.append_scores("a", "search/0", [1.0, 0.0], 0.1, RECIPE)
    before, changed = path.read_bytes(), True
    with pytest.raises(RunError, match="other weights"):
        ledger.append_scores("a", "search/1", [1.0, 0.0], 0.1, RECIPE)
    with pytest.raises(RunError, match="other weights"):
        ledger.append_failure("b", "search/0", "no", RECIPE)
    assert path.read_bytes() == before and "b" not in ledger.trials
    assert ledger["a"].scores.keys() == {"search/0"}
    ledger.close()


def test_header_then_one_line_for_each_chunk_or_failure(path: Path) -> None:
    ledger = Ledger(path, HEADER)
    ledger.append_scores("a", "search/0", [1.0, 0.0], 0.12345678, RECIPE)
    ledger.append_scores("a", "search/1", [1.0, 1.0], 0.5, RECIPE)
    ledger.append_failure("b", "search/0", "out of memory", RECIPE)
    ledger.append_slice_use("holdout", ["a"])
    ledger.append_slice_use("holdout", ["a"])
    ledger.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"schema": 1, **HEADER},
        {"key": "a", "chunk": "search/0", "scores": [1.0, 0.0], "seconds": 0.1235, "recipe": RECIPE},
        {"key": "a", "chunk": "search/1", "scores": [1.0, 1.0], "seconds": 0.5},
        {"key": "b", "chunk": "search/0", "error": "out of memory", "recipe": RECIPE},
        {"look": "holdout", "keys": ["a"]},
    ]


def test_reopening_answers_what_was_paid_for(path: Path) -> None:
    before = write(path)
    ledger = Ledger(path, HEADER)
    ledger.close()
    assert ledger["k"].scores == {f"search/{i}": [0.5, float(i)] for i in range(3)}
    assert ledger["k"].seconds == pytest.approx(0.75)
    assert ledger["never seen"].scores == {}
    assert path.read_bytes() == before


def test_every_line_is_on_the_disk_before_the_search_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    synced = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (sizes.append(os.fstat(fd).st_size), synced(fd))[1])
    ledger = Ledger(path, HEADER)
    written = [path.stat().st_size]
    for i in range(3):
        ledger.append_scores("k", f"search/{i}", [0.0], 0.0, RECIPE)
        written.append(path.stat().st_size)
    ledger.close()
    assert sizes == written, "each line whole, flushed, then synced"


@pytest.mark.parametrize("cut", [1, 20, 40])
def test_a_torn_last_line_is_dropped_and_redone(path: Path, cut: int) -> None:
    whole = write(path)
    path.write_bytes(whole[:-cut])
    ledger = Ledger(path, HEADER)
    assert list(ledger["k"].scores) == ["search/0", "search/1"]
    ledger.append_scores("k", "search/2", [0.5, 2.0], 0.25, RECIPE)
    ledger.close()
    assert path.read_bytes() == whole


def test_a_torn_header_is_written_again(path: Path) -> None:
    whole = write(path, chunks=0)
    path.write_bytes(whole[:30])
    assert write(path, chunks=0) == whole


def test_every_cut_of_a_ledger_can_be_continued(tmp_path: Path) -> None:
    """Whatever byte the crash stopped at, the search ends with the same file and pays only for what is lost."""
    path = tmp_path / "trials.jsonl"
    whole = Run(path)
    whole.search(12)
    data = path.read_bytes()
    for cut in range(0, len(data), len(data) // 12):
        path.write_bytes(data[:cut])
        run = Run(path)
        run.search(12)
        assert run.asked == whole.asked
        assert sorted(path.read_bytes().splitlines()) == sorted(data.splitlines())


@pytest.mark.parametrize("damage", [b'{"key": "k", "chunk"', b"\x00\xff\x00", b"[1, 2]", b"7"])
def test_a_damaged_middle_line_is_refused_by_number(path: Path, damage: bytes) -> None:
    lines = write(path).splitlines()
    lines[2] = damage
    path.write_bytes(b"\n".join(lines) + b"\n")
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"trials\.jsonl: line 3 .*copy|line 3") as caught:
        Ledger(path, HEADER)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_middle_line_of_another_shape_is_refused_by_number(path: Path) -> None:
    lines = write(path).splitlines()
    lines[2] = b'{"hello": "world"}'
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(RunError, match="line 3"):
        Ledger(path, HEADER)


def test_another_configuration_is_refused_with_the_difference(path: Path) -> None:
    before = write(path)
    other = {**HEADER, "config": {"seed": 2, "space": {"schedule": {"blocks": 4}}}}
    with pytest.raises(RunError) as caught:
        Ledger(path, other)
    message = str(caught.value)
    assert "seed: 1 → 2" in message and "space.schedule.blocks: 2 → 4" in message and "\n" not in message
    assert path.read_bytes() == before
    with pytest.raises(RunError, match="seed: 1 → 2"):
        refuse_other_search(path, {"config": other["config"]})
    refuse_other_search(path, {"config": HEADER["config"]})


def test_many_differences_are_cut_short(path: Path) -> None:
    write(path, header={**HEADER, "config": {f"k{i}": i for i in range(9)}})
    with pytest.raises(RunError, match="and 5 more"):
        Ledger(path, {**HEADER, "config": {f"k{i}": -1 - i for i in range(9)}})


@pytest.mark.parametrize(
    ("part", "other", "what"),
    [
        ("models", {"base": "01"}, "other weights.*base: 00 → 01"),
        ("chunks", {"search/0": ["toy/0", "toy/2"]}, "other items.*search/0"),
    ],
)
def test_other_weights_and_other_items_are_refused(path: Path, part: str, other: Any, what: str) -> None:
    write(path)
    with pytest.raises(RunError, match=what):
        Ledger(path, {**HEADER, part: other})


def test_other_versions_are_no_obstacle(path: Path) -> None:
    write(path)
    Ledger(path, {**HEADER, "versions": {"torch": "2"}}).close()


def test_a_newer_schema_is_refused(path: Path) -> None:
    lines = write(path).splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), "schema": 99}).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(RunError, match="99"):
        Ledger(path, HEADER)


def test_a_configuration_with_number_keys_is_the_same_when_read_back(path: Path) -> None:
    """JSON turns the keys of a mapping into text; YAML task specs may have numbers there."""
    numbered = {**HEADER, "config": {"spec": {"labels": {0: "no", 1: "yes"}}}}
    write(path, header=numbered)
    Ledger(path, numbered).close()


def test_a_second_process_is_refused(path: Path) -> None:
    ledger = Ledger(path, HEADER)
    script = (
        "import sys; from pathlib import Path\n"
        "from evomerge.errors import RunError; from evomerge.ledger import Ledger\n"
        "try: Ledger(Path(sys.argv[1]), {})\n"
        "except RunError as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(path)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
    assert "another process is running this search" in said and len(said.splitlines()) == 1
    ledger.append_scores("k", "search/0", [1.0], 0.0, RECIPE)
    ledger.close()
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # free again


def test_a_full_disk_is_one_line_and_leaves_whole_lines(path: Path) -> None:
    before = write(path)
    ledger = Ledger(path, HEADER)
    with disk_of(len(before) + 20):
        with pytest.raises(RunError, match="nothing is lost") as caught:
            ledger.append_scores("k", "search/9", [0.125] * 50, 0.0, RECIPE)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before
        ledger.close()
    assert path.read_bytes() == before, "closing must not write what the disk refused"
    assert write_one_more(path).startswith(before)


def write_one_more(path: Path) -> bytes:
    ledger = Ledger(path, HEADER)
    ledger.append_scores("k", "search/9", [0.125] * 50, 0.0, RECIPE)
    ledger.close()
    return path.read_bytes()


def test_a_disk_that_fails_at_the_sync_says_to_free_space(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(path)
    ledger = Ledger(path, HEADER)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="No space left on device; free disk space and repeat"):
            ledger.append_scores("k", "search/9", [1.0], 0.0, RECIPE)
    ledger.close()
    assert path.read_bytes() == before


def test_a_search_that_met_a_full_disk_ends_the_same(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole.jsonl")
    expected = whole.search(18)
    path = tmp_path / "cut.jsonl"
    size = len((tmp_path / "whole.jsonl").read_bytes())
    with disk_of(size // 2), pytest.raises(RunError, match="nothing is lost"):
        Run(path).search(18)
    again = Run(path)
    board = again.search(18)
    assert [(c.key, score) for c, score in board.ranked()] == [(c.key, score) for c, score in expected.ranked()]
    assert sorted(path.read_bytes().splitlines()) == sorted((tmp_path / "whole.jsonl").read_bytes().splitlines())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file") as caught:
        Ledger(tmp_path / "file" / "trials.jsonl", HEADER)
    assert "\n" not in str(caught.value)


def test_reading_a_ledger_in_use_leaves_a_torn_line_out(path: Path) -> None:
    ledger = Ledger(path, HEADER)
    ledger.append_scores("k", "search/0", [1.0, 0.0], 0.0, RECIPE)
    with path.open("ab") as file:
        file.write(b'{"key": "k", "chu')
    header, lines = read_trials(path)
    assert header["config"] == HEADER["config"] and len(lines) == 1
    ledger.close()


@pytest.mark.parametrize("content", [None, b"", b"not json\n"])
def test_reading_what_is_no_ledger_is_one_line(path: Path, content: bytes | None) -> None:
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"trials\.jsonl") as caught:
        read_trials(path)
    assert "\n" not in str(caught.value)


def test_counts_of_generated_answers_are_kept_beside_the_scores(tmp_path: Path) -> None:
    counts = {"answers": 3, "truncated": 1, "empty": 0, "unparsable": 2}
    with contextlib.closing(Ledger(tmp_path / "trials.jsonl", {})) as ledger:
        ledger.append_scores("k", "search/0", [1.0], 0.5, {}, counts)
        ledger.append_scores("k", "search/1", [1.0], 0.5, {}, {})
        assert ledger["k"].answers == {"search/0": counts}
    with contextlib.closing(Ledger(tmp_path / "trials.jsonl", {})) as ledger:
        assert ledger["k"].answers == {"search/0": counts} and len(ledger["k"].scores) == 2


OLD, NEW = {"search/0": ["t/0", "t/1"], "search/1": ["t/2"]}, {"search/x/0": ["t/2", "t/0"], "search/x/1": ["t/1"]}


def test_scores_of_a_slice_dealt_anew_are_those_of_its_items() -> None:
    trial = Trial({"search/0": [0.1, 0.2], "search/1": [0.3], "select/0": [1.0]})
    trial.regroup(OLD, NEW)
    assert trial.scores["search/x/0"] == [0.3, 0.1] and trial.scores["search/x/1"] == [0.2]
    part = Trial({"search/0": [0.1, 0.2]})
    part.regroup(OLD, NEW)
    assert part.scores.keys() == {"search/0"}, "half of the items are no slice"


def test_what_is_known_of_a_new_chunk_stays() -> None:
    trial = Trial({"search/0": [0.1, 0.2], "search/1": [0.3], "search/x/1": [0.9]})
    trial.regroup(OLD, NEW)
    assert trial.scores["search/x/1"] == [0.9]
    failed = Trial({"search/0": [0.1, 0.2], "search/x/1": [0.9]}, {"search/1": "no memory"})
    failed.regroup(OLD, NEW)
    assert failed.errors == {"search/1": "no memory", "search/x/0": "no memory"}


def test_a_deal_and_a_width_are_written_once_and_read_again(tmp_path: Path) -> None:
    rechunking = Rechunking(NEW, {"t/0": "agree", "t/1": "agree", "t/2": "mostly wrong"})
    for _ in range(2):
        ledger = Ledger(tmp_path / "a", {})
        ledger.append_rechunking(rechunking, OLD)
        if ledger.race_limit is None:
            ledger.append_race_limit(64)
        ledger.close()
        assert ledger.rechunking == rechunking and ledger.race_limit == 64
    header, lines = read_trials(tmp_path / "a")
    assert len(lines) == 2 and chunks_of({"chunks": OLD, **header}, lines) == OLD | NEW
