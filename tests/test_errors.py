"""The remedy fits the reason that the system gives for refusing a file."""

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from evomerge.atomic import write_atomically
from evomerge.errors import (
    MAX_LENGTH,
    REMEDIES,
    ConfigError,
    ExpertError,
    RulesError,
    RunError,
    SeveralExpertsError,
    remedy_for,
)
from evomerge.export.staging import atomic_folder
from evomerge.ledger.ledger import Ledger

FITTING = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "quota",
    errno.EROFS: "mount it writable",
    errno.EBUSY: "mount its folder instead",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EFBIG: "ulimit -f",
    errno.EINVAL: "permissions",
}


def failing(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", FITTING, ids=errno.errorcode.get)
def test_a_file_that_cannot_be_replaced(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise failing(number)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(RunError, match=FITTING[number]) as error:
            write_atomically(tmp_path / "recipe.yaml", "x")
    assert str(error.value).startswith(f"{tmp_path}/recipe.yaml: {os.strerror(number)}; ")
    assert ("disk space" in str(error.value)) == (number == errno.ENOSPC)


@pytest.mark.parametrize("number", FITTING, ids=errno.errorcode.get)
def test_a_ledger_that_cannot_be_opened(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise failing(number)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RunError, match=FITTING[number]) as error:
        Ledger(tmp_path / "trials.jsonl", {})
    assert "nothing is lost" in str(error.value)


@pytest.mark.parametrize("number", FITTING, ids=errno.errorcode.get)
def test_an_export_that_cannot_be_written(number: int, tmp_path: Path) -> None:
    told = SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
    for reason in (failing(number), told):
        with pytest.raises(RunError, match=FITTING[number]), atomic_folder(tmp_path / "out"):
            raise reason


def test_no_remedy_is_more_than_a_clause() -> None:
    assert all(text[0].islower() and not text.endswith((".", ",")) for text in REMEDIES.values())
    assert remedy_for(ValueError("something else")) == "look at its permissions"


def test_whatever_a_message_quotes_it_is_one_printable_line() -> None:
    message = str(ConfigError("seed: 'a\nb\0\ud800\u200b' " + "x" * 10**6))
    assert message.startswith(r"seed: 'a b\x00\ud800\u200b' xxx") and message.isprintable()
    assert len(message) <= MAX_LENGTH
    assert str(RulesError("one line\nand another")) == "one line\nand another"


def test_a_line_for_each_expert_and_no_more_lines() -> None:
    """A name with a break does not make a line of its own."""
    assert str(ExpertError("a\nb")) == "a b"
    assert str(SeveralExpertsError("first\nsecond")).splitlines() == ["first", "second"]
