"""Whole runs by a scoring function of the user's: lengths, races, resuming, replay, and corpus-level metrics."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Command, Said, evomerge, make_project

SCORES = '''
def letters(items):
    """The share of the right answer's letters that stand at their places."""
    return [sum(a == b for a, b in zip(i.text.strip(), i.target)) / len(i.target) for i in items]

def chosen(items):
    best = [max(range(len(i.choices)), key=lambda c: i.loglikelihoods[c]) for i in items]
    return [(choice, item.target) for choice, item in zip(best, items)]

def balanced(pairs):
    classes = {target for _, target in pairs}
    hits = [[choice == target for choice, target in pairs if target == each] for each in sorted(classes)]
    return sum(sum(hit) / len(hit) for hit in hits) / len(hits)
'''
GENERATION = {
    "output_type": "generate_until",
    "doc_to_target": "{{choices[gold]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6},
}
SMALL = {"slices": {"search": 16, "select": 8, "holdout": 12}, "chunk_items": 8}
RACE = {"least": 8, "most": 16}


def spec(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"data/{name}.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{query}}",
        **changes,
    }


def write(folder: Path, tasks: list[dict[str, Any]], **changes: Any) -> None:
    path = folder / "conf" / "experiment" / "mine.yaml"
    config = yaml.safe_load(path.read_text().replace("# @package _global_", ""))
    config |= {"scorer": {**SMALL, "tasks": tasks}, "budget": {"evaluations": 12}, "finalise": {"top": 2}, **changes}
    path.write_text("# @package _global_\n" + yaml.safe_dump(config))
    (folder / "scores.py").write_text(SCORES)


GENERATING = [
    {"name": "copy", "spec": spec("copy", **GENERATION), "score": "scores:letters"},
    {"name": "last", "spec": spec("last", **GENERATION), "score": "scores.py:letters"},
]
WEIGHTED = {"maximise": {"copy": 1, "last": 1, "last.tokens": 0.01}}


def finish(folder: Path, *arguments: str) -> Said:
    said = evomerge("+experiment=mine", *arguments, cwd=folder)
    assert said.code == 0, said
    return said


@pytest.fixture(scope="module")
def _scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    make_project(folder)
    write(folder, GENERATING, objective=WEIGHTED, race=RACE)
    finish(folder)
    return folder


@pytest.fixture
def scored(_scored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_scored, tmp_path / "scored"))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs/mine/trials.jsonl").read_text().splitlines()[1:]]


def values(folder: Path) -> dict[tuple[str, str], Any]:
    return {
        (line["key"], line["chunk"]): (line["scores"], line["tokens"]) for line in lines(folder) if "scores" in line
    }


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs/mine/result.json").read_text())
    return {key: value for key, value in found.items() if key not in ("seconds", "counts", "machine", "versions")}


def test_the_table_has_score_and_length_and_the_score_is_their_weighted_mean(scored: Path) -> None:
    assert any("race" in line for line in lines(scored))
    for row in result(scored)["rows"]:
        copy, last, tokens = row["tasks"]["copy"], row["tasks"]["last"], row["lengths"]["last.tokens"]
        assert row["scores"]["holdout"] == pytest.approx((copy + last - 0.01 * tokens) / 2.01)
        assert 0 < tokens <= 6
    report = (scored / "runs/mine/report.html").read_text()
    assert '<th scope="col" class="task">last.tokens</th>' in report


def test_killed_and_resumed_it_ends_the_same_and_scores_nothing_twice(_scored: Path, scored: Path) -> None:
    ledger = scored / "runs/mine/trials.jsonl"
    text = ledger.read_bytes()
    ledger.write_bytes(text[: len(text) // 2])
    for name in ("result.json", "recipe.yaml", "report.html"):
        (scored / "runs/mine" / name).unlink()
    finish(scored)
    assert values(scored) == values(_scored) and result(scored) == result(_scored)


@pytest.mark.slow
def test_without_races_each_item_has_the_same_values(_scored: Path, project: Path) -> None:
    write(project, GENERATING, objective=WEIGHTED, race={"enabled": False})
    finish(project)
    raced, whole = values(_scored), values(project)
    both = raced.keys() & whole.keys()
    assert len(both) > 20 and all(raced[pair] == whole[pair] for pair in both)


def test_replay_gives_the_same_scores(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = evomerge("replay", "runs/mine", cwd=scored)
    assert said.code == 0 and said.out.count("same") == 4, said


def test_a_changed_function_is_refused_by_its_name(scored: Path) -> None:
    (scored / "scores.py").write_text(SCORES + "\n# another thought\n")
    for arguments in (("+experiment=mine",), ("check", "+experiment=mine"), ("replay", "runs/mine")):
        line = evomerge(*arguments, cwd=scored).refused(1)
        assert "holds scores of a scoring function that has changed (scores" in line


def test_a_bound_of_the_length(project: Path, command: Command) -> None:
    write(project, GENERATING, objective={"keep": {"last.tokens": "base", "tokens": 6}})
    check = command("check", "+experiment=mine", cwd=project)
    assert "keep last.tokens ≤ base, tokens ≤ 6" in check.out, check
    assert "race      off: a front, floors or a corpus-level metric need every item" in check.out
    assert "scores    by scores.py:letters, scores:letters, tried on sample answers" in check.out
    said = finish(project)
    found = result(project)
    assert found["floors"] == {} and set(found["ceilings"]) == {"last.tokens", "tokens"}
    base, winner = found["rows"][0]["lengths"], found["rows"][-1]["lengths"]
    assert found["ceilings"] == {"last.tokens": base["last.tokens"], "tokens": 6}
    assert winner["tokens"] <= 6
    assert "last.tokens" in said.out and "of at most" in said.out


@pytest.mark.slow
def test_a_front_of_score_and_length(project: Path) -> None:
    write(project, GENERATING, objective={"front": True, "maximise": ["last", "last.tokens"]})
    finish(project, "optimizer=optuna", "optimizer.sampler=nsga2", "optimizer.population=6")
    found = result(project)
    assert found["front"]["tasks"] == ["last", "last.tokens"] and found["front"]["members"]


def test_a_corpus_level_metric_from_search_to_replay(project: Path, command: Command) -> None:
    choice = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold"}
    task = {"name": "last", "spec": spec("last", **choice), "score": "scores:chosen", "aggregate": "scores:balanced"}
    write(project, [task], finalise={"top": 2, "simplify": 4, "cloud": 2})
    assert "race      off: a front, floors or a corpus" in command("check", "+experiment=mine", cwd=project).out
    finish(project)
    found = result(project)
    assert {comparison["test"] for comparison in found["comparisons"]} == {"bootstrap, drawn"}
    hits: dict[int, list[bool]] = {}
    key = found["winner"]["key"]
    for line in lines(project):
        if line.get("key") == key and line["chunk"].startswith("holdout"):
            for choice_, target in line["scores"]:
                hits.setdefault(target, []).append(choice_ == target)
    wanted = sum(sum(hit) / len(hit) for hit in hits.values()) / len(hits)
    assert found["rows"][-1]["scores"]["holdout"] == pytest.approx(wanted)
    said = command("replay", "runs/mine", cwd=project)
    assert said.code == 0 and said.out.count("same") == 4, said
    write(project, [task], init=["runs/mine"], name="second")
    finish(project, "hydra.run.dir=runs/second")


def test_lm_evals_table_refuses_other_scores(project: Path, command: Command) -> None:
    (project / "scores.py").write_text(SCORES)
    line = command("score", "family/base", f"tasks={json.dumps(GENERATING[:1])}", cwd=project).refused(2)
    assert "tasks: copy: this table has lm-eval's metrics only; drop score and aggregate" in line
