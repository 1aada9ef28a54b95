"""One command from models and files of questions to a recipe: it wins, resumes, and its file repeats it."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import evomerge
from evomerge.autoconfig import Request, write_experiment
from evomerge.autoconfig import quick_search as quick
from evomerge.autoconfig.pace import Pace
from evomerge.errors import ConfigError, RunError
from tests.conftest import QUICKSTART, Command
from tests.conftest import evomerge as evomerge_command

FAMILY = [str(QUICKSTART / "family" / name) for name in ("base", "shift", "last", "max")]
SKILLS = ("copy", "shift", "last", "max")
FILES = [str(QUICKSTART / "data" / f"{name}.jsonl") for name in SKILLS]
ASKED = [text for path in FILES for text in ("--for", path)]


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pace on every machine, so that the same sizes are chosen."""
    monkeypatch.setattr(quick, "measure_pace", lambda experiment: Pace(400.0, 4096))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the whole command."""
    folder = tmp_path_factory.mktemp("quick")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick, "measure_pace", lambda experiment: Pace(1.0, 4096))  # a slow machine gets small slices
        said = evomerge_command(*FAMILY, *ASKED, "--out", "mine", "--merged", "merged", cwd=folder)
    assert said.code == 0, said
    return folder


@pytest.mark.slow
def test_the_winner_beats_every_row_without_an_option(run: Path) -> None:
    document = json.loads((run / "mine" / "result.json").read_text())
    winner = document["rows"][-1]["scores"]["holdout"]
    assert document["verdict"] == "better"
    assert winner > max(row["scores"]["holdout"] for row in document["rows"][:-1])
    assert (run / "merged" / "config.json").is_file()


@pytest.mark.slow
def test_the_file_that_it_leaves_repeats_it(run: Path) -> None:
    said = evomerge_command("mine/experiment.yaml", "--out", "again", cwd=run)
    assert said.code == 0, said
    first, second = (json.loads((run / name / "result.json").read_text()) for name in ("mine", "again"))
    assert first["fingerprint"] == second["fingerprint"]
    assert [row["scores"] for row in first["rows"]] == [row["scores"] for row in second["rows"]]


@pytest.mark.slow
def test_the_command_again_scores_nothing_and_another_request_is_refused(run: Path) -> None:
    again = evomerge_command(*FAMILY, *ASKED, "--out", "mine", "--merged", "merged", cwd=run)
    assert again.code == 0 and "as it was chosen before" in again.out and "left as it is" in again.out
    assert json.loads((run / "mine" / "result.json").read_text())["counts"]["items_scored_this_time"] == 0
    other = evomerge_command(*FAMILY[:3], *ASKED, "--out", "mine", cwd=run)
    assert "another search, with other experts; give another folder with --out" in other.refused(1)


def test_init_writes_a_file_that_hydra_composes_to_the_same_search(command: Command, tmp_path: Path) -> None:
    said = command("init", *FAMILY, *ASKED, "--name", "mine")
    assert said.code == 0 and "evomerge +experiment=mine" in said.out, said
    assert "estimate" in said.out and "slope: every task has right choices" in said.out
    by_name, by_path = command("check", "+experiment=mine"), command("check", "conf/experiment/mine.yaml")
    assert by_name.code == by_path.code == 0, (by_name, by_path)
    assert by_name.out == by_path.out and "39 dimensions" in by_name.out
    assert "exists already" in command("init", *FAMILY, *ASKED, "--name", "mine").refused(2)


def test_rules_are_judged_before_the_audit_and_stand_in_the_file(command: Command, tmp_path: Path) -> None:
    """Without --hours, the search gets a part of the hours of the rules."""
    said = command("init", *FAMILY, *ASKED, "--rules", "lmc2024", "--name", "ruled")
    assert said.code == 0 and said.out.index("rules     lmc2024: ") < said.out.index("audit  "), said
    text = (tmp_path / "conf" / "experiment" / "ruled.yaml").read_text()
    assert "override /rules: lmc2024" in text and "hours: 1.0" in text and "max_billions: 8.05" in text
    for checked in (command("check", "+experiment=ruled"), command("check", "conf/experiment/ruled.yaml")):
        assert checked.code == 0 and checked.out.startswith("rules     lmc2024: "), checked
    (tmp_path / "conf" / "rules").mkdir()
    (tmp_path / "conf" / "rules" / "tiny.yaml").write_text("max_billions: 0.0001\n")
    refused = command("init", *FAMILY[:2], *ASKED, "--rules", "tiny", "--name", "other")
    assert refused.code == 1 and refused.err.count("rules tiny: size: ") == 2 and "audit  " not in refused.out
    unknown = command("init", *FAMILY, *ASKED, "--rules", "lmc", "--name", "other").refused(2)
    assert "rules=lmc: no such choice" in unknown


def test_answers_in_words_are_searched_by_their_scores(command: Command, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in Path(FILES[1]).read_text().splitlines()[:80]]
    lines = [json.dumps({"prompt": row["query"], "answer": row["choices"][row["gold"]]}) for row in rows]
    (tmp_path / "words.jsonl").write_text("\n".join(lines))
    said = command("init", *FAMILY, "--for", "words.jsonl", "--name", "mine")
    assert said.code == 0 and "cma: a task is scored by generated text" in said.out, said
    assert command("check", "+experiment=mine").code == 0


def test_the_same_request_gets_the_same_file(tmp_path: Path) -> None:
    request = Request.of(FAMILY[0], FAMILY[1:], FILES[:2], out=tmp_path / "one")
    list(write_experiment(request, tmp_path / "one" / "experiment.yaml"))
    first = (tmp_path / "one" / "experiment.yaml").read_text()
    assert "override /pool: local" in first and "name: local" not in first  # pool=ray on the command line replaces it
    shutil.rmtree(tmp_path / "one")
    list(write_experiment(request, tmp_path / "one" / "experiment.yaml"))
    assert (tmp_path / "one" / "experiment.yaml").read_text() == first


def test_a_folder_with_another_search_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").write_text("{}\n")
    request = Request.of(FAMILY[0], FAMILY[1:], FILES[:2], out=tmp_path)
    with pytest.raises(RunError, match="holds another search"):
        list(write_experiment(request, tmp_path / "experiment.yaml"))
    assert [path.name for path in tmp_path.iterdir()] == ["trials.jsonl"]


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(ConfigError, match="GB are needed; give another --out"):
        list(write_experiment(Request.of(FAMILY[0], FAMILY[1:], FILES[:2], out=tmp_path), tmp_path / "e.yaml"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((FAMILY[0], FAMILY[1]), "no task: add --tasks"),
        ((FAMILY[0], *ASKED), "no expert"),
        ((*FAMILY, "--tasks", "arc_chalenge"), "did you mean 'arc_challenge'?"),
        ((FAMILY[0], "nothere", *ASKED), "nothere: no such folder"),
        ((*FAMILY, *ASKED, "--hours", "many"), "--hours: invalid float value"),
        ((*FAMILY, *ASKED, "--merged", "."), "--merged .: exists already"),
        (("nothere.yaml",), "nothere.yaml: No such file"),
    ],
)
def test_bad_lines_are_refused_and_leave_nothing(
    arguments: tuple[str, ...], said: str, command: Command, tmp_path: Path
) -> None:
    answer = command(*arguments)
    assert said in answer.refused(answer.code) and answer.code in (1, 2)
    assert not list(tmp_path.iterdir())


def test_an_expert_with_a_fault_is_refused_before_the_plan(command: Command, tmp_path: Path) -> None:
    shutil.copytree(FAMILY[1], tmp_path / "broken")
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    said = command(FAMILY[0], "broken", FAMILY[2], *ASKED, "--out", "mine")
    assert "the audit found not finite (broken)" in said.refused(1) and "estimate" not in said.out
    assert not (tmp_path / "mine").exists()


def test_python_takes_models_and_tasks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hours: only with a base, experts and tasks"):
        evomerge.search({"name": "x"}, hours=1)
    with pytest.raises(ConfigError, match="no expert"):
        evomerge.search(FAMILY[0], [], tasks=FILES)
