"""A search over many experts: the screening finds those that matter, is paid once, and survives a kill."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import evomerge
from evomerge.audit import measure_task_vectors
from evomerge.errors import ConfigError
from evomerge.experiment import from_config, prepare_run
from evomerge.models import Family
from evomerge.recipes import ModelRef
from evomerge.searching import TimedEvaluation
from tests.conftest import QUICKSTART, Command
from tests.experiment.test_run import paid_twice, scores_of, without_timings

GOOD = ("shift", "last", "max")
SKILLS = ("copy", *GOOD)


def derive(source: Path, folder: Path, seed: int, noise: float, kept: float) -> None:
    """An expert whose delta is `kept` of another one's, plus noise of `noise` times its length."""
    base, expert = (load_file(path / "model.safetensors") for path in (QUICKSTART / "family" / "base", source))
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, tensor in expert.items():
        delta = tensor.float() - base[name].float()
        other = torch.randn(delta.shape, generator=generator)
        changed = kept * delta + noise * delta.norm() / other.norm() * other
        found[name] = (base[name].float() + changed).to(tensor.dtype)
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three experts that matter, a noisy copy, one of a wrong scale, a negative one, two random ones, the base."""
    folder = tmp_path_factory.mktemp("experts")
    made = {"noisy": ("shift", 0.15, 1.0), "huge": ("max", 0.0, 9.0), "minus": ("last", 0.0, -1.0)}
    made |= {"random1": ("shift", 1.0, 0.0), "random2": ("last", 1.0, 0.0), "same": ("last", 0.0, 0.0)}
    for seed, (name, (source, noise, kept)) in enumerate(made.items()):
        derive(QUICKSTART / "family" / source, folder / name, seed, noise, kept)
    found = {name: str(folder / name) for name in made}
    return found | {name: str(QUICKSTART / "family" / name) for name in GOOD}


def config(experts: Mapping[str, str], **more: Any) -> dict[str, Any]:
    tasks = [{"name": name, "file": str(QUICKSTART / "data" / f"{name}.jsonl")} for name in SKILLS]
    return {
        "base": str(QUICKSTART / "family" / "base"),
        "experts": dict(experts),
        "model": {"dtype": "float32", "device": "cpu", "batch_size": 256},
        "scorer": {"slices": {"search": 16, "select": 8, "holdout": 16}, "tasks": tasks},
        "budget": {"evaluations": 4},
        "screen": {"most": 4},
        **more,
    }


@pytest.fixture(scope="module")
def screened(experts: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("screened") / "run"
    evomerge.search(config(experts), folder)
    return folder


def test_the_experts_that_matter_are_found_and_the_others_leave_with_a_reason(screened: Path) -> None:
    result = json.loads((screened / "result.json").read_text())
    record = result["screen"]
    assert set(record["kept"]) == set(GOOD)
    why = {row["label"]: row["reason"] for row in record["rows"]}
    assert why["same"] == "equal to the base" and "vector of shift" in why["noisy"] and "vector of max" in why["huge"]
    assert {why[name] for name in ("minus", "random1", "random2")} <= {"lifts no task over the base"} | {
        text for text in why.values() if "as good without it" in text
    }
    assert [row["label"] for row in result["rows"]] == ["base", *record["kept"], "uniform", "default", "winner"]
    assert paid_twice(screened) == []


def test_rows_alone_are_those_of_the_screening_and_all_scores_count(screened: Path) -> None:
    result = json.loads((screened / "result.json").read_text())
    lines = [json.loads(line) for line in (screened / "trials.jsonl").read_text().splitlines()[1:]]
    rows = {row["label"]: row for row in result["rows"]}
    for row in result["screen"]["rows"]:
        if row["kept"]:
            assert rows[row["label"]]["scores"]["search"] == pytest.approx(row["score"], abs=1e-6)
            assert rows[row["label"]]["key"] in result["screen"]["scored"]
    assert result["counts"]["items_scored"] == sum(len(line.get("scores", ())) for line in lines)


def test_the_recipe_merges_those_that_stayed_and_replays(screened: Path) -> None:
    recipe = evomerge.load_recipe(screened / "recipe.yaml")
    assert {Path(str(ref)).name for ref in recipe.models()} <= {"base", *GOOD}
    assert all(value.same for value in evomerge.replay(screened))
    text = (screened / "report.html").read_text()
    assert "nearly the task vector of shift" in text and "of shift, last, max" in text


def test_the_same_call_again_scores_nothing_and_a_cut_ledger_ends_the_same(
    screened: Path, experts: dict[str, str], tmp_path: Path
) -> None:
    data = (screened / "trials.jsonl").read_bytes()
    for kept in (0.3, 1.0):
        folder = tmp_path / str(kept)
        folder.mkdir()
        (folder / "trials.jsonl").write_bytes(data[: int(len(data) * kept)])
        result = evomerge.search(config(experts), folder)
        assert without_timings(folder) == without_timings(screened)
        assert scores_of(folder) == scores_of(screened) and paid_twice(folder) == []
    assert result.document["counts"]["items_scored_this_time"] == 0


def test_the_order_of_the_experts_does_not_matter(screened: Path, experts: dict[str, str], tmp_path: Path) -> None:
    turned = dict(reversed(experts.items()))
    result = evomerge.search(config(turned, budget={"evaluations": 1}), tmp_path / "turned")
    record = json.loads((screened / "result.json").read_text())["screen"]
    assert set(result.document["screen"]["kept"]) == set(record["kept"])
    rows = {row["label"]: row for row in result.document["screen"]["rows"]}
    for row in record["rows"]:  # sums over the experts may round differently
        other = rows[row["label"]]
        assert other["reason"] == row["reason"] and other["norm"] == pytest.approx(row["norm"], rel=1e-4)


def test_check_says_that_experts_are_screened_and_few_are_not(experts: dict[str, str], tmp_path: Path) -> None:
    lines = evomerge.check(config(experts), tmp_path / "none")
    assert "screen    9 experts are scored alone and in some merges; the search merges at most 4" in lines
    few = config({name: experts[name] for name in GOOD})
    assert not any(line.startswith("screen") for line in evomerge.check(few, tmp_path / "none"))
    assert not from_config(prepare_run(few, tmp_path / "none")[0]).needs_screening


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"screen": {"most": 1}}, "screen.most=1: give a whole number at least 2"),
        ({"screen": {"most": 4, "always": ["shfit"]}}, "'shfit' is not an expert (did you mean 'shift'?)"),
        ({"screen": {"most": 2, "always": list(GOOD)}}, "screen.always names 3 experts; screen.most is 2"),
        ({"init": ["old.yaml"]}, "init: its recipes may merge experts that leave; set screen.most=null"),
        (
            {"objective": {"keep": {"copy": "last - 0.1"}}},
            "keep: the expert last may leave; add it to screen.always",
        ),
        ({"screen": {"mots": 4}}, "screen.mots: unknown key (did you mean 'most'?)"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    experts: dict[str, str], tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare_run(config(experts) | more, tmp_path / "none")
    assert words in str(caught.value)


def test_task_vectors_are_those_of_the_weights(experts: dict[str, str]) -> None:
    refs = {name: ModelRef(experts[name]) for name in ("shift", "noisy", "minus", "last")}
    base = ModelRef(str(QUICKSTART / "family" / "base"))
    found = measure_task_vectors(Family(base, refs.values()), refs)
    weights = {n: load_file(Path(r.path) / "model.safetensors") for n, r in (refs | {"base": base}).items()}
    matrices = [name for name, tensor in weights["base"].items() if tensor.dim() > 1]
    flat = {
        label: torch.cat([(weights[label][n].double() - weights["base"][n].double()).flatten() for n in matrices])
        for label in refs
    }
    for i, one in enumerate(refs):
        assert found.norms[i] == pytest.approx(float(flat[one].norm()), rel=1e-4)
        for j, other in enumerate(refs):
            cosine = float(torch.nn.functional.cosine_similarity(flat[one], flat[other], dim=0))
            assert found.cosines[i, j] == pytest.approx(cosine, abs=1e-4)


@pytest.mark.slow
def test_the_command_proposes_and_the_search_goes_on_from_there(
    experts: dict[str, str], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [experts[name] for name in (*GOOD, "noisy", "random1")]
    asked = [text for name in SKILLS for text in ("--for", str(QUICKSTART / "data" / f"{name}.jsonl"))]
    line = [str(QUICKSTART / "family" / "base"), *few, *asked, "--most", "3", "--out", "mine", "--items", "200"]
    monkeypatch.setenv("COLUMNS", "240")
    said = command("screen", *line)
    assert said.code == 0 and "3 of 5 experts stay: shift, last, max" in said.out, said
    before = scores_of(tmp_path / "mine")
    assert command(*line).code == 0
    after = scores_of(tmp_path / "mine")
    assert before.items() <= after.items() and paid_twice(tmp_path / "mine") == []
    assert json.loads((tmp_path / "mine" / "result.json").read_text())["screen"]["kept"] == list(GOOD)


def test_without_time_for_merges_the_scores_alone_decide_and_a_resumed_run_agrees(
    experts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TimedEvaluation, "_seconds", lambda self, items: 1e9 if items else 0.0)
    four = {name: experts[name] for name in (*GOOD, "noisy")}
    small = config(four, screen={"most": 3}, budget={"evaluations": 1, "hours": 1.0})
    record = evomerge.search(small, tmp_path / "run").document["screen"]
    assert set(record["kept"]) == set(GOOD) and all(row["contribution"] is None for row in record["rows"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "trials.jsonl").read_text().splitlines()]
    assert {line["cut"] for line in lines if "cut" in line} >= {"search", "screening merges"}
    assert evomerge.search(small, tmp_path / "run").document["screen"] == record
