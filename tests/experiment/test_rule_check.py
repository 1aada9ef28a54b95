"""Rules in a whole command: the table of `check`, one line for each broken rule, and the record of a finished run."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import SMALL, evomerge

RULES = "rules=lmc2024"
HOURS = "budget.hours=0.8"
CARD = "---\nlicense: {}\n---\n"


@pytest.fixture
def weightless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reading a tensor, hashing a file or starting a worker ends the test."""
    from evomerge.models import adapter as lora
    from evomerge.models.checkpoint import Checkpoint
    from evomerge.workers import pools

    def read(*_: object, **__: object) -> Any:
        raise AssertionError("no weight may be read")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "tensor", read)
        patch.setattr(Checkpoint, "sha256", property(read))
        patch.setattr(lora.Adapter, "update", read)
        patch.setattr(pools, "create", read)
        yield


def answer(**changes: Any) -> str:
    kept = {"id": "org/m", "createdAt": "2024-01-01T00:00:00.000Z", "lastModified": "2024-02-01T00:00:00.000Z"}
    return json.dumps({**kept, "gated": False, "private": False, **changes})


def keep_rules(project: Path) -> None:
    """Give every model of the family a card and an answer of the hub that keep the rules."""
    for folder in (project / "family").iterdir():
        (folder / "README.md").write_text(CARD.format("mit"))
        (folder / "model_info.json").write_text(answer())


@pytest.mark.usefixtures("weightless")
def test_check_shows_every_verdict_and_unknown_does_not_stop(project: Path) -> None:
    keep_rules(project)
    (project / "family" / "last" / "model_info.json").unlink()
    said = evomerge("check", "+experiment=mine", *SMALL, RULES, HOURS, cwd=project)
    assert said.code == 0 and said.err == "", said
    first, *lines = said.out.splitlines()
    assert first == "rules     lmc2024: 16 ok, 6 unknown"
    words = [line.split() for line in lines]
    assert sum(line[:2] == ["ok", "size"] for line in words) == 4
    assert ["unknown", "public", "last", "a", "local", "folder:"] in [line[:6] for line in words]
    assert any(line[:2] == ["ok", "GPU"] for line in words) and "base      family/base" in said.out


@pytest.mark.usefixtures("weightless")
@pytest.mark.parametrize("command", [("check",), ()], ids=["check", "search"])
def test_broken_rules_are_a_line_each_before_weights_are_read(project: Path, command: tuple[str, ...]) -> None:
    keep_rules(project)
    (project / "family" / "shift" / "README.md").write_text(CARD.format("cc-by-nd-4.0"))
    (project / "family" / "last" / "model_info.json").write_text(answer(createdAt="2024-06-01T00:00:00.000Z"))
    (project / "family" / "max" / "model_info.json").write_text(answer(gated="manual"))
    said = evomerge(*command, "+experiment=mine", *SMALL, RULES, "rules.max_billions=0.0001", cwd=project)
    assert said.code == 1 and "Traceback" not in said.err
    places = [tuple(line.removeprefix("evomerge: ").split(": ")[1:3]) for line in said.err.splitlines()]
    sizes = [("size", name) for name in ("base", "shift", "last", "max")]
    others = [("licence", "shift"), ("upload date", "last"), ("public", "max"), ("hours", "run")]
    assert [place for place in places if place != ("",)] == [*sizes, *others], said.err
    assert not (project / "runs" / "mine" / "trials.jsonl").exists()


def test_the_verdicts_are_in_the_result_and_rules_may_change_when_a_run_is_resumed(
    mine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = mine / "runs" / "mine" / "result.json"
    assert "rules" not in json.loads(result.read_text())
    said = evomerge("+experiment=mine", *SMALL, RULES, HOURS, cwd=mine)
    assert said.code == 0 and "16 verdicts are unknown" in caplog.text, said
    document = json.loads(result.read_text())
    assert document["counts"]["items_scored_this_time"] == 0
    assert document["rules"]["name"] == "lmc2024"
    found = {(each["rule"], each["model"]): each["status"] for each in document["rules"]["verdicts"]}
    assert found["size", "max"] == found["GPU memory", "run"] == found["hours", "run"] == "ok"
    assert found["upload date", "base"] == "unknown"


@pytest.mark.usefixtures("weightless")
def test_rules_of_a_user_are_found_in_their_conf(project: Path) -> None:
    (project / "conf" / "rules").mkdir()
    (project / "conf" / "rules" / "ours.yaml").write_text("name: ours\nmax_billions: 0.0001\n")
    for arguments in (("+experiment=mine", *SMALL, "rules=ours"), ("file.yaml", "rules.name=ours")):
        if arguments[0] == "file.yaml":
            shutil.copy(project / "conf" / "experiment" / "mine.yaml", project / "file.yaml")
            plain = yaml.safe_load((project / "file.yaml").read_text())
            plain.pop("defaults", None)
            (project / "file.yaml").write_text(yaml.safe_dump(plain))
        said = evomerge("check", *arguments, cwd=project)
        assert said.code == 1 and said.err.count("rules ours: size: ") == 4, said
    refused = evomerge("check", "+experiment=mine", "rules=lmc2042", cwd=project).refused(2)
    assert "rules=lmc2042: no such choice (did you mean 'lmc2024'?)" in refused
