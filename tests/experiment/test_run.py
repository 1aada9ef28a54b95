"""A whole run in its folder, on the real quickstart family: kill, repeat, freeze, replay, failures."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from evomerge.errors import RunError
from evomerge.experiment.replay import open_run
from evomerge.experiment.run import write_atomically
from evomerge.recipes import load_recipe
from evomerge.report.budget_section import VARIABLE_SECTION
from tests.conftest import ITEMS, QUICKSTART, ROOT, SMALL, Command, evomerge
from tests.ledger.test_ledger import disk_of

TINY = ("scorer.slices={search: 4, select: 4, holdout: 4}", "scorer.chunk_items=16", "budget.evaluations=6")
CHOICE = ("method=[task_arithmetic,ties,linear]", "space.subset=true", "space.outer=joint")
TIMINGS = ("seconds", "counts", "machine", "versions")


def trials(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()[1:]]


def without_timings(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    return {key: value for key, value in result.items() if key not in TIMINGS}


def scores_of(folder: Path) -> dict[tuple[str, str], list[float]]:
    return {(line["key"], line["chunk"]): line["scores"] for line in trials(folder) if "scores" in line}


def paid_twice(folder: Path) -> list[tuple[str, str]]:
    paid = [(line["key"], line["chunk"]) for line in trials(folder) if "chunk" in line]
    return [pair for pair in set(paid) if paid.count(pair) > 1]


def same_run(folder: Path, other: Path) -> None:
    same_search(folder, other)
    assert without_the_moment(folder) == without_the_moment(other)


def same_search(folder: Path, other: Path) -> None:
    """As of two runs whose configurations differ in what changes no number."""
    assert (folder / "recipe.yaml").read_bytes() == (other / "recipe.yaml").read_bytes()
    assert without_timings(folder) == without_timings(other)
    assert paid_twice(folder) == []
    assert scores_of(folder) == scores_of(other)


def without_the_moment(folder: Path) -> str:
    """The report but for its one section that depends on when, how often and where the command was given."""
    before, rest = (folder / "report.html").read_text().split(f'<section id="{VARIABLE_SECTION}">')
    return before + rest.partition("</section>")[2]


def killed_after(lines: int, folder: Path) -> None:
    """The command in a process of its own, killed by SIGKILL once its ledger has so many lines."""
    command = [sys.executable, "-m", "evomerge", "+experiment=quickstart", *SMALL, f"hydra.run.dir={folder}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ledger, limit = folder / "trials.jsonl", time.monotonic() + 120
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not ledger.is_file() or ledger.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_the_files_of_a_run(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"config.yaml", "trials.jsonl", "recipe.yaml", "result.json"} <= names
    assert not [name for name in names if name.endswith(".partial")]
    texts = json.loads((finished / "flips.json").read_text())
    assert texts and all(lines[0].startswith(f"{item}, scored by") for item, lines in texts.items())
    assert all(lines[1] in (finished / "report.html").read_text() for lines in texts.values()), "none needs an escape"
    header = json.loads((finished / "trials.jsonl").read_text().splitlines()[0])
    assert header["schema"] == 1 and header["config"]["seed"] == 1
    assert not {"name", "budget", "pool"} & set(header["config"])
    assert (
        sum(len(line["scores"]) for line in trials(finished) if "scores" in line)
        == json.loads((finished / "result.json").read_text())["counts"]["items_scored"]
    )


def test_the_result_says_what_the_ledger_says(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    assert [row["label"] for row in result["rows"]] == ["base", "shift", "last", "max", "uniform", "default", "winner"]
    header = json.loads((finished / "trials.jsonl").read_text().splitlines()[0])
    sizes = {
        name: len([chunk for chunk in header["chunks"] if chunk.startswith(name)]) for name in ("search", "holdout")
    }
    for name, chunks in sizes.items():
        lines = [line for line in trials(finished) if line.get("key") == result["winner"]["key"]]
        scores = [score for line in lines if line.get("chunk", "").startswith(name) for score in line["scores"]]
        assert len([line for line in lines if line.get("chunk", "").startswith(name)]) == chunks
        assert result["rows"][-1]["scores"][name] == pytest.approx(sum(scores) / len(scores))
    assert result["verdict"] == "better" and result["winner_is"] == [] and result["suspects"] == {}
    assert all(line.startswith(("Note: task '", "Warning: task '")) for line in result["task_warnings"])


def test_killed_and_torn_the_run_ends_as_if_undisturbed(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "quickstart"
    killed_after(9, folder)
    ledger = folder / "trials.jsonl"
    if (folder / "recipe.yaml").exists():
        load_recipe(folder / "recipe.yaml")
    os.truncate(ledger, ledger.stat().st_size - 7)
    said = evomerge("+experiment=quickstart", *SMALL, cwd=tmp_path)
    assert said.code == 0, said
    same_run(folder, finished)


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 2, 30, 70])
def test_killed_at_any_moment(finished: Path, tmp_path: Path, lines: int) -> None:
    folder = tmp_path / "runs" / "quickstart"
    killed_after(lines, folder)
    killed_after(min(lines + 8, 72), folder)
    assert evomerge("+experiment=quickstart", *SMALL, cwd=tmp_path).code == 0
    same_run(folder, finished)


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 0.97])
def test_every_beginning_of_a_ledger_ends_the_same(finished: Path, tmp_path: Path, kept: float) -> None:
    """What a kill leaves behind, whatever it was: a ledger cut anywhere, without the files written after it."""
    folder = tmp_path / "runs" / "quickstart"
    folder.mkdir(parents=True)
    data = (finished / "trials.jsonl").read_bytes()
    (folder / "trials.jsonl").write_bytes(data[: int(len(data) * kept)])
    assert evomerge("+experiment=quickstart", *SMALL, cwd=tmp_path).code == 0
    same_run(folder, finished)


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, in the place where the command looks for it."""
    return Path(shutil.copytree(finished, tmp_path / "runs" / "quickstart"))


def test_a_finished_run_evaluates_nothing(copied: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from evomerge.workers import pools

    def start(*_: object) -> None:
        raise AssertionError("a finished run starts no worker")

    monkeypatch.setattr(pools, "create", start)
    before = {name: (copied / name).read_bytes() for name in ("trials.jsonl", "recipe.yaml", "config.yaml")}
    said = command("+experiment=quickstart", *SMALL)
    assert said.code == 0 and "winner" in said.out
    assert {name: (copied / name).read_bytes() for name in before} == before
    result = json.loads((copied / "result.json").read_text())
    assert result["counts"]["items_scored_this_time"] == 0


@pytest.mark.slow
def test_a_larger_budget_continues_and_another_name_starts_anew(copied: Path, command: Command, tmp_path: Path) -> None:
    before = trials(copied)
    assert command("+experiment=quickstart", *SMALL, "budget.evaluations=24").code == 0
    after = trials(copied)
    assert after[: len(before)] == before and len(after) > len(before)
    assert paid_twice(copied) == []
    fresh = command("+experiment=quickstart", *SMALL, "budget.evaluations=24", "name=fresh")
    assert fresh.code == 0
    new = tmp_path / "runs" / "fresh"
    assert (new / "recipe.yaml").read_bytes() == (copied / "recipe.yaml").read_bytes()
    winners = [json.loads((folder / "result.json").read_text())["winner"] for folder in (new, copied)]
    assert winners[0] == winners[1]


def test_another_configuration_is_refused_with_the_difference(copied: Path, command: Command) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    for verb in ([], ["check"]):
        line = command(*verb, "+experiment=quickstart", *SMALL, "seed=2", "optimizer.population=6").refused(1)
        assert "seed: 1 → 2" in line and "optimizer.population: null → 6" in line
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_other_weights_are_refused(mine: Path) -> None:
    tamper(mine / "family" / "last")
    line = evomerge("+experiment=mine", *SMALL, cwd=mine).refused(1)
    assert "other weights" in line and "family/last" in line


def test_other_items_under_the_same_numbers_are_refused(mine: Path) -> None:
    path = mine / "data" / "copy.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "gold": (row["gold"] + 1) % 4}) + "\n" for row in rows))
    evomerge("+experiment=mine", *SMALL, cwd=mine).refused(1)


def tamper(expert: Path) -> None:
    """Moves one weight of an expert."""
    tensors = load_file(expert / "model.safetensors")
    name = "model.layers.2.mlp.down_proj.weight"
    tensors[name] = tensors[name] + 0.25
    save_file(tensors, expert / "model.safetensors", metadata={"format": "pt"})


def test_replay_agrees_and_notices_a_tampered_expert(mine: Path) -> None:
    folder = mine / "runs" / "mine"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    said = evomerge("replay", "runs/mine", cwd=mine)
    assert said.code == 0 and said.out.count("same  ") == 4 and "DIFFERS" not in said.out
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    tamper(mine / "family" / "last")
    said = evomerge("replay", "runs/mine", cwd=mine)
    assert said.code == 1 and "DIFFERS  fingerprint" in said.out


def test_replay_of_no_run_is_one_line(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no config\.yaml"):
        open_run(tmp_path)
    shutil.copy(finished / "config.yaml", tmp_path)
    with pytest.raises(RunError, match=r"no recipe\.yaml"):
        open_run(tmp_path)


def test_merge_of_the_recipe_gives_the_fingerprint_it_notes(finished: Path, command: Command, tmp_path: Path) -> None:
    noted = yaml.safe_load((finished / "recipe.yaml").read_text())["evomerge"]["fingerprint"]
    assert noted == json.loads((finished / "result.json").read_text())["fingerprint"]
    said = command("merge", str(finished / "recipe.yaml"), "merged")
    assert said.code == 0 and noted in said.out
    assert (tmp_path / "merged" / "recipe.yaml").read_bytes() == (finished / "recipe.yaml").read_bytes()


def test_scores_are_those_of_lm_eval_on_the_merged_folder(finished: Path, command: Command, tmp_path: Path) -> None:
    """The `lm_eval` command's own evaluation of the exported folder, on the very same items."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    assert command("merge", str(finished / "recipe.yaml"), "merged").code == 0
    config = yaml.safe_load((finished / "config.yaml").read_text())
    specs = [{"task": task["name"], **task["spec"]} for task in config["scorer"]["tasks"]]
    model = HFLM(pretrained=str(tmp_path / "merged"), dtype="float32", device="cpu", batch_size=64)
    header = json.loads((finished / "trials.jsonl").read_text().splitlines()[0])
    winner = json.loads((finished / "result.json").read_text())["winner"]["key"]
    lines = [line for line in trials(finished) if line.get("key") == winner]
    ours = {
        item: score
        for line in lines
        for item, score in zip(header["chunks"][line["chunk"]], line["scores"], strict=True)
    }
    rows: dict[str, list[int]] = {}
    for item in ours:
        rows.setdefault(item.partition("/")[0], []).append(int(item.rpartition("/")[2]))
    rows = {task: sorted(ids) for task, ids in rows.items()}  # lm-eval confuses the ids of an unsorted list
    found = lm_eval.simple_evaluate(
        model,
        tasks=specs,
        task_manager=TaskManager(include_defaults=False),
        samples={task: sorted(ids) for task, ids in rows.items()},
        log_samples=True,
        bootstrap_iters=0,
    )
    theirs = {
        f"{task}/test/{sample['doc_id']}": sample["acc"]
        for task, samples in found["samples"].items()
        for sample in samples
    }
    assert len(ours) == 4 * ITEMS
    assert ours == theirs


def test_the_recipe_so_far_is_valid_and_stays(tmp_path: Path, finished: Path) -> None:
    """Between generations recipe.yaml is the best on search; it loads, merges and names its score."""
    from evomerge.experiment.best_recipe import BestRecipe
    from tests.toys import Run

    run = Run(tmp_path / "trials.jsonl")
    callback = BestRecipe(tmp_path / "recipe.yaml", run.evaluator)
    run.generation = callback.generation  # type: ignore[method-assign]
    board = run.search(12)
    best, score = board.ranked()[0]
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.key() == best.key and recipe.notes["scores"] == {"search": score}
    (tmp_path / "recipe.yaml").write_text("frozen by the finished run")
    again = Run(tmp_path / "trials.jsonl")
    again.generation = BestRecipe(tmp_path / "recipe.yaml", again.evaluator).generation  # type: ignore[method-assign]
    again.search(12)
    assert (tmp_path / "recipe.yaml").read_text() == "frozen by the finished run"


def test_an_expert_with_a_nan_fails_its_candidates_only(project: Path) -> None:
    path = project / "family" / "last" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.self_attn.q_proj.weight"][0, 0] = math.nan
    save_file(tensors, path, metadata={"format": "pt"})
    said = evomerge("+experiment=mine", *SMALL, cwd=project)
    assert said.code == 0, said
    folder = project / "runs" / "mine"
    result = json.loads((folder / "result.json").read_text())
    rows = {row["label"]: row for row in result["rows"]}
    assert rows["base"]["scores"]["holdout"] is not None and rows["base"]["scores"]["holdout"] > 0
    failed = [line for line in trials(folder) if "error" in line]
    assert len({line["key"] for line in failed}) == result["counts"]["failed"] > 0
    assert all("model.layers.1.self_attn.q_proj.weight" in line["error"] for line in failed)
    assert "failed" in said.out and "last" in said.out
    recipe = load_recipe(folder / "recipe.yaml")
    assert recipe.key() == result["winner"]["key"]
    json.loads((folder / "result.json").read_text(), parse_constant=lambda token: pytest.fail(f"{token} is not JSON"))


def test_a_base_with_a_nan_is_one_line(project: Path) -> None:
    path = project / "family" / "base" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = math.nan
    save_file(tensors, path, metadata={"format": "pt"})
    line = evomerge("+experiment=mine", *SMALL, cwd=project).refused(1)
    assert "base" in line and "model.layers.0.mlp.up_proj.weight" in line


@pytest.fixture
def room() -> Iterator[int]:
    """Bytes that hold the header and a few lines of the small run's ledger."""
    yield 12_000


def test_a_full_disk_is_one_line_and_the_repeated_run_ends_the_same(
    finished: Path, command: Command, tmp_path: Path, room: int
) -> None:
    with disk_of(room):
        line = command("+experiment=quickstart", *SMALL).refused(1)
    assert "trials.jsonl" in line and "nothing is lost" in line
    folder = tmp_path / "runs" / "quickstart"
    assert 0 < len(trials(folder)) < len(trials(finished))
    assert command("+experiment=quickstart", *SMALL).code == 0
    same_run(folder, finished)


def test_write_atomically_keeps_the_old_text_when_the_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    write_atomically(path, "old")
    with disk_of(100), pytest.raises(RunError, match=r"recipe\.yaml.*limit on the size of a file"):
        write_atomically(path, "x" * 1000)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_experts_and_the_base_are_never_written(finished: Path, copied: Path) -> None:
    """Weights on disk are those of the commit: a merge in place must not reach through the page cache."""
    header = json.loads((finished / "trials.jsonl").read_text().splitlines()[0])
    from evomerge.models.checkpoint import Checkpoint

    for name in ("base", "shift", "last", "max"):
        folder = QUICKSTART / "family" / name
        assert header["models"][str(folder)] == Checkpoint(folder).sha256


# --- a search over methods and experts ---


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search over three methods and every subset of the experts; read it, do not change it."""
    cwd = tmp_path_factory.mktemp("chosen")
    said = evomerge("+experiment=quickstart", *SMALL, *CHOICE, "budget.evaluations=24", cwd=cwd)
    assert said.code == 0, said
    return cwd / "runs" / "quickstart"


@pytest.mark.slow
def test_a_search_over_methods_and_experts(chosen: Path) -> None:
    result = json.loads((chosen / "result.json").read_text())
    defaults = [f"default ({name})" for name in ("task_arithmetic", "ties", "linear")]
    assert [row["label"] for row in result["rows"]][:-1] == ["base", "shift", "last", "max", "uniform", *defaults]
    assert result["counts"]["failed"] == 0
    recipes = [line["recipe"] for line in trials(chosen) if "recipe" in line]
    assert {recipe["merge_method"] for recipe in recipes} == {"task_arithmetic", "ties", "linear"}
    assert any(0.0 in [model.get("parameters", {}).get("weight") for model in r["models"]] for r in recipes)
    assert "ties" in (chosen / "report.html").read_text()


@pytest.mark.slow
def test_its_recipe_rebuilds_and_replays(chosen: Path, tmp_path: Path) -> None:
    noted = yaml.safe_load((chosen / "recipe.yaml").read_text())["evomerge"]["fingerprint"]
    said = evomerge("merge", str(chosen / "recipe.yaml"), "merged", cwd=tmp_path)
    assert said.code == 0 and noted in said.out
    said = evomerge("replay", str(chosen), cwd=tmp_path)
    assert said.code == 0 and said.out.count("same  ") == 4, said
    assert evomerge("report", str(chosen), "--figures", str(tmp_path / "figures"), cwd=tmp_path).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0.2, 0.6])
def test_cut_anywhere_it_ends_the_same(chosen: Path, tmp_path: Path, kept: float) -> None:
    folder = tmp_path / "runs" / "quickstart"
    folder.mkdir(parents=True)
    data = (chosen / "trials.jsonl").read_bytes()
    (folder / "trials.jsonl").write_bytes(data[: int(len(data) * kept)])
    said = evomerge("+experiment=quickstart", *SMALL, *CHOICE, "budget.evaluations=24", cwd=tmp_path)
    assert said.code == 0, said
    same_run(folder, chosen)


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("method", ["lines", "karcher"])
def test_a_frozen_winner_is_what_was_scored(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `frozen-linear` winner: native in the ledger, plain weights in recipe.yaml, the same bytes and scores."""
    from evomerge.experiment import experiment

    made = experiment.mandatory_baselines
    monkeypatch.setattr(  # without the rows that are task arithmetic, the winner is the method's own
        experiment,
        "mandatory_baselines",
        lambda *given: {k: v for k, v in made(*given).items() if k in ("base", "default")},
    )
    said = evomerge("+experiment=quickstart", *TINY, f"method={method}", "seed=3", cwd=tmp_path)
    assert said.code == 0, said
    folder = tmp_path / "runs" / "quickstart"
    document = yaml.safe_load((folder / "recipe.yaml").read_text())
    winner = json.loads((folder / "result.json").read_text())["winner"]
    native = next(line["recipe"] for line in trials(folder) if line.get("key") == winner["key"] and "recipe" in line)
    assert native["merge_method"] == document["evomerge"]["frozen_from"]["merge_method"] == method
    assert native["models"] == document["evomerge"]["frozen_from"]["models"]
    assert document["merge_method"] == {"lines": "task_arithmetic", "karcher": "linear"}[method]
    said = evomerge("replay", str(folder), cwd=tmp_path)
    assert said.code == 0 and said.out.count("same  ") == 4, said
    said = evomerge("merge", str(folder / "recipe.yaml"), "merged", cwd=tmp_path)
    assert said.code == 0 and document["evomerge"]["fingerprint"] in said.out
    assert yaml.safe_load((tmp_path / "merged" / "recipe.yaml").read_text()) == document
    before = (folder / "recipe.yaml").read_bytes()
    assert evomerge("+experiment=quickstart", *TINY, f"method={method}", "seed=3", cwd=tmp_path).code == 0
    assert (folder / "recipe.yaml").read_bytes() == before


# --- what methods prepare ---


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def prepares(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tensors for which TIES prepared anything."""
    from evomerge.methods import Setup, State, ties

    names: list[str] = []
    original = ties.prepare

    def prepare(setup: Setup) -> State:
        names.append(setup.sources.name)
        return original(setup)

    monkeypatch.setattr(ties, "prepare", prepare)
    return names


TIES = (*TINY, "method=ties", "space.outer=joint")


@pytest.mark.slow
def test_a_later_run_a_sweep_and_replay_prepare_nothing(cache: Path, prepares: list[str], command: Command) -> None:
    assert command("+experiment=quickstart", *TIES, "name=first").code == 0
    assert len(prepares) == len(set(prepares)) == 38
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    assert len(files) == 38
    assert command("+experiment=quickstart", *TIES, "name=second").code == 0
    assert command("-m", "+experiment=quickstart", *TIES, "seed=4,5", "name=sweep").code == 0
    assert command("replay", "runs/first").code == 0
    assert len(prepares) == 38
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")} == files


@pytest.mark.slow
def test_other_weights_are_prepared_anew(cache: Path, prepares: list[str], project: Path) -> None:
    tamper(project / "family" / "last")
    assert evomerge("+experiment=quickstart", *TIES, cwd=project).code == 0
    assert evomerge("+experiment=mine", *TIES, cwd=project).code == 0
    assert len(prepares) == 2 * 38 and len(list(cache.iterdir())) == 2


@pytest.mark.slow
def test_a_cache_that_takes_nothing_is_one_warning(
    prepares: list[str], command: Command, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    assert command("+experiment=quickstart", *TIES).code == 0
    warned = [
        record
        for record in caplog.records
        if record.levelname == "WARNING" and record.name == "evomerge.merging.prepared"
    ]
    assert len(warned) == 1 and "could not be kept" in warned[0].getMessage()
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()


@pytest.mark.slow
def test_an_expert_with_a_nan_does_not_stop_what_is_prepared(cache: Path, project: Path) -> None:
    path = project / "family" / "last" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.self_attn.q_proj.weight"][0, 0] = math.nan
    save_file(tensors, path, metadata={"format": "pt"})
    said = evomerge("+experiment=mine", *TINY, "method=[ties,tsv_m]", "space.outer=joint", cwd=project)
    assert said.code == 0, said
    assert json.loads((project / "runs" / "mine" / "result.json").read_text())["counts"]["failed"] > 0


# --- how candidates are written ---


def test_another_compiler_place_or_batch_resumes(copied: Path, command: Command) -> None:
    before = (copied / "trials.jsonl").read_bytes()
    given = ("model.compile=never", "model.placement=mmap", "model.batch_size=32")
    said = command("+experiment=quickstart", *SMALL, *given)
    assert said.code == 0, said
    assert (copied / "trials.jsonl").read_bytes() == before


@pytest.mark.slow
def test_leaving_unchanged_tensors_alone_changes_no_score(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole search again by a worker that writes every tensor of every candidate."""
    from evomerge.merging.materializer import Materializer

    write, written = Materializer.write, []

    def in_full(self: Materializer, recipe: Any, model: Any) -> None:
        self.invalidate()
        written.append(recipe.key())
        write(self, recipe, model)

    monkeypatch.setattr(Materializer, "write", in_full)
    assert evomerge("+experiment=quickstart", *SMALL, cwd=tmp_path).code == 0
    same_run(tmp_path / "runs" / "quickstart", finished)
    assert len(written) > 16


@pytest.mark.slow
def test_a_compiler_changes_no_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the quickstart are below what is compiled, so the bound goes down for this one."""
    monkeypatch.setattr("evomerge.kernels.runner.EAGER_ELEMENTS", 8)
    folders = {}
    for mode in ("always", "never"):
        said = evomerge("+experiment=quickstart", *TIES, f"model.compile={mode}", f"name={mode}", cwd=tmp_path)
        assert said.code == 0, said
        folders[mode] = tmp_path / "runs" / mode
    same_search(folders["always"], folders["never"])


def test_a_run_cut_off_before_anything_is_scored_leaves_a_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evomerge.experiment import run

    def cut_off(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "search", cut_off)
    assert evomerge("+experiment=quickstart", *SMALL, cwd=tmp_path).code == 130
    recipe = load_recipe(tmp_path / "runs" / "quickstart" / "recipe.yaml")
    assert recipe.method == "task_arithmetic" and len(recipe.slices[0].sources) == 3


SEVERAL = ("optimizer=random", "objective.front=true", "objective.maximise=[last,max]", "finalise.cloud=2")


@pytest.mark.slow
def test_every_member_of_a_front_can_be_built(project: Path) -> None:
    said = evomerge("+experiment=mine", *SMALL, *SEVERAL, cwd=project)
    assert said.code == 0, said
    folder = project / "runs" / "mine"
    result = json.loads((folder / "result.json").read_text())
    members = {row["label"]: row for row in result["front"]["members"]}
    files = {path.stem: load_recipe(path) for path in (folder / "front").glob("*.yaml")}
    assert sorted(files) == sorted(label.replace("/", "-") for label in members)
    for label, row in members.items():
        recipe = files[label.replace("/", "-")]
        assert recipe.key() == row["key"] and recipe.notes["scores"]["holdout"] == row["scores"]["holdout"]
        assert len(recipe.notes["models"]) == 4
    some = next(iter(files))
    assert evomerge("merge", f"runs/mine/front/{some}.yaml", "merged", cwd=project).code == 0
    built = yaml.safe_load((project / "merged" / "recipe.yaml").read_text())["evomerge"]["fingerprint"]
    assert built == files[some].notes["fingerprint"], "what was scored is what is built"
    assert len({recipe.notes["fingerprint"] for recipe in files.values()}) == len(files)
    assert evomerge("replay", "runs/mine", cwd=project).code == 0
    assert f"The front has {len(members)} member" in said.out
    text = (folder / "report.html").read_text()
    assert 'id="front-0"' in text and 'id="parallel"' in text


@pytest.mark.slow
def test_floors_and_units_are_replayed_beside_the_same_baselines(project: Path) -> None:
    kept = ("objective.normalise=true", "+objective.keep.shift=best_expert - 0.5", "baselines.random_direction=true")
    said = evomerge("+experiment=mine", *SMALL, *kept, cwd=project)
    assert said.code == 0, said
    result = json.loads((project / "runs" / "mine" / "result.json").read_text())
    rows = {row["label"]: row for row in result["rows"]}
    assert rows["base"]["scores"]["select"] == 0.0
    assert rows["random_direction"]["scores"]["holdout"] < rows["uniform"]["scores"]["holdout"]
    replayed = evomerge("replay", "runs/mine", cwd=project)
    assert replayed.code == 0 and replayed.out.count("same") == 4, replayed


def test_more_may_be_asked_of_a_finished_search(copied: Path, tmp_path: Path) -> None:
    """`finalise` and `baselines` are free to change: the search is not repeated, and a second look is told."""
    before = trials(copied)
    said = evomerge(
        "+experiment=quickstart", *SMALL, "finalise.simplify=8", "baselines.random_direction=true", cwd=tmp_path
    )
    assert said.code == 0, said
    new = trials(copied)[len(before) :]
    searched = {line["key"] for line in new if line.get("chunk", "").startswith("search")}
    assert len(searched) == 1, "the control is a new row, nothing else is searched"
    assert "the holdout was used 2 times" in said.out.replace("\n", " ")
    assert paid_twice(copied) == []


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("objective.front=true",), "objective.front: optimizer=cma takes one objective; choose one of"),
        (
            ("objective.maximise=[copi]",),
            "objective.maximise: copi is not one of the scorer's tasks (did you mean 'copy'?)",
        ),
        (("+objective.keep.copy=best",), "objective.keep.copy=best: 'best' is no baseline"),
        (("objective.normalise=1",), "objective.normalise=1: give true or false"),
        (("+objective.weight=1",), "objective.weight: unknown key"),
        (("+baselines.random_dir=true",), "baselines.random_dir: unknown key (did you mean 'random_direction'?)"),
        (("finalise.simplify=-1",), "finalise.simplify=-1: give a whole number at least 0"),
        (("finalise.radius=1.5",), "finalise.radius=1.5: give a number above 0, below 1"),
    ],
    ids=str,
)
def test_mistakes_in_what_is_asked_for_are_one_line(command: Command, settings: tuple[str, ...], message: str) -> None:
    assert message in command("check", "+experiment=quickstart", *SMALL, *settings).refused(2)
