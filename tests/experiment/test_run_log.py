"""What other libraries say of a run is in its log, not between the lines of progress."""

import io
import logging
import sys
import warnings
from pathlib import Path

import pytest

from evomerge.experiment.run_log import LOG, run_log
from evomerge.paths import LEDGER


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed on standard error; the handler is that of the command line."""
    made = io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("evomerge")
    handler = logging.StreamHandler(made)
    monkeypatch.setattr(root, "handlers", [handler])
    monkeypatch.setattr(root, "level", logging.ERROR)
    monkeypatch.setattr(ours, "level", logging.WARNING)
    logging.root.manager._clear_cache()  # type: ignore[attr-defined]
    return made


def speak() -> None:
    """What libraries and this package say during a run."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for _ in range(4):
            warnings.warn("will change", FutureWarning, stacklevel=1)
    logging.getLogger("transformers.models").warning("a library's warning")
    logging.getLogger("some.library").error("a library's error")
    logging.getLogger("evomerge.workers").info("a traceback")
    logging.getLogger("evomerge.workers").warning("a worker is lost")


def test_the_terminal_keeps_what_the_user_needs(tmp_path: Path, stderr: io.StringIO) -> None:
    (tmp_path / LEDGER).touch()
    before, handlers = warnings.showwarning, list(logging.getLogger().handlers)
    with run_log(tmp_path):
        speak()
    assert stderr.getvalue() == "a library's error\na worker is lost\n"
    lines = (tmp_path / LOG).read_text().splitlines()
    assert sum("FutureWarning: will change" in line for line in lines) == 4
    for said in ("WARNING transformers.models: a library's", "ERROR some.library", "INFO evomerge.workers", "is lost"):
        assert any(said in line for line in lines), said
    assert warnings.showwarning is before
    assert logging.getLogger().level == logging.ERROR and logging.getLogger().handlers == handlers
    stderr.truncate(0)
    logging.getLogger("evomerge.workers").info("after")
    assert "after" not in (tmp_path / LOG).read_text() and stderr.getvalue() == ""


def test_a_librarys_own_handler_is_put_back(tmp_path: Path, stderr: io.StringIO) -> None:
    (tmp_path / LEDGER).touch()
    library = logging.getLogger("a_library_with_a_handler")
    handler = logging.StreamHandler(stderr)
    library.addHandler(handler)
    library.propagate = False
    library.setLevel(logging.WARNING)
    with run_log(tmp_path):
        library.warning("quiet")
    library.warning("loud")
    assert stderr.getvalue() == "loud\n" and "quiet" in (tmp_path / LOG).read_text()
    assert library.handlers == [handler]
    library.removeHandler(handler)


@pytest.mark.parametrize("propagates", [False, True])
def test_a_handler_that_is_added_later_is_quiet_too(tmp_path: Path, stderr: io.StringIO, propagates: bool) -> None:
    """Ray and mlflow add theirs when they start, and some loggers stop propagating after that."""
    (tmp_path / LEDGER).touch()
    library = logging.getLogger(f"a_library_that_starts_late_{propagates}")
    library.setLevel(logging.WARNING)
    handler = logging.StreamHandler(stderr)
    with run_log(tmp_path):
        library.addHandler(handler)
        library.propagate = propagates
        library.warning("quiet")
        library.error("an error")
    library.warning("loud")
    said = stderr.getvalue()
    assert "quiet" not in said and said.count("an error") == 1 and "loud" in said
    text = (tmp_path / LOG).read_text()
    assert text.count("quiet") == 1 and text.count("an error") == 1 and "loud" not in text
    assert not handler.filters and logging.Logger.addHandler.__name__ == "addHandler"
    library.removeHandler(handler)


def test_where_nothing_is_configured_our_warnings_are_printed(
    tmp_path: Path, stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys, "stderr", stderr)
    with run_log(tmp_path):
        speak()
    assert stderr.getvalue() == "a library's error\na worker is lost\n"
    assert logging.getLogger().handlers == []


def test_a_run_that_is_refused_leaves_nothing(tmp_path: Path, stderr: io.StringIO) -> None:
    folder = tmp_path / "runs" / "mine"
    with pytest.raises(ValueError, match="no"), run_log(folder):
        speak()
        raise ValueError("no")
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_is_left_to_the_ledger(tmp_path: Path, stderr: io.StringIO) -> None:
    (tmp_path / "file").touch()
    with run_log(tmp_path / "file" / "mine"):
        speak()
    assert stderr.getvalue() == "a library's error\na worker is lost\n"
