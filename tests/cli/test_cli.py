"""The command line: exit codes, and one line on stderr for whatever a user can get wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.recipes import dump_recipe
from evomerge.recipes.recipe import Source, recipe_of_models
from tests.conftest import ROOT, SMALL, Command, evomerge
from tests.families import save_adapter, save_family


def check(command: Command, *overrides: str, code: int = 2) -> str:
    return command("check", "+experiment=quickstart", *SMALL, *overrides).refused(code)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("check",), "choose an experiment: +experiment=quickstart"),
        (("+experiment=quickstrat",), "'quickstart'"),
        (("+experiment=nope",), "there are"),
        (("merge", "/no/recipe.yaml", "out"), "/no/recipe.yaml: no such file"),
        (("replay", "/no/run"), "/no/run: no config.yaml"),
    ],
)
def test_a_command_that_cannot_be_meant(command: Command, arguments: tuple[str, ...], text: str) -> None:
    assert text in command(*arguments).refused(1 if arguments[0] == "replay" else 2)


@pytest.mark.parametrize("arguments", [(), ("serach",)])
def test_an_unknown_command_shows_the_usage(command: Command, arguments: tuple[str, ...]) -> None:
    said = command(*arguments)
    assert said.code == 2 and "usage: evomerge" in said.err and "Traceback" not in said.err


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    ("override", "key", "hint"),
    [
        ("budgte=3", "budgte", "'budget'"),
        ("+budgte=3", "budgte", "'budget'"),
        ("budget.evaluation=3", "budget.evaluation", "evaluations'"),
        ("+budget.evaluation=3", "budget.evaluation", "evaluations'"),
        ("+model.dtyp=x", "model.dtyp", "'dtype'"),
        ("+scorer.chunk_item=3", "scorer.chunk_item", "'chunk_items'"),
        ("+space.schedul=all", "space.schedul", "'schedule'"),
        ("+optimizer.popul=3", "optimizer.popul", "'population'"),
        ("+pool.thread=3", "pool.thread", "'threads'"),
        ("+finalise.tops=3", "finalise.tops", "'top'"),
        ("+space.genes.weigth=0.5", "weigth", "'weight'"),
        ("+space.genes.weight.lo=0.5", "space.genes.weight.lo", "'low'"),
        ("method={nme: ties}", "method.nme", "'name'"),
        ("method=tie", "tie", "'ties'"),
        ("method=[ties,liner]", "liner", "'linear'"),
        ("method=[ties,{nme: linear}]", "method.nme", "'name'"),
        ("method={name: ties, settings: {normalise: true}}", "normalise", "'normalize'"),
        ("method={name: ties, options: {trimm: x}}", "trimm", "'trim'"),
        ("optimizer=cmaa", "cmaa", "'cma'"),
        ("optimizer.name=cmaa", "cmaa", "'cma'"),
        ("pool=rya", "rya", "'ray'"),
        ("pool.name=locl", "locl", "'local'"),
    ],
)
def test_a_misspelt_word_is_named_with_the_nearest_known_one(
    command: Command, override: str, key: str, hint: str
) -> None:
    line = check(command, override)
    assert key in line and hint in line


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    "override",
    [
        "base=3",
        "experts=3",
        "experts.last=3",
        "seed=abc",
        "seed=-1",
        "seed=1.5",
        "budget=3",
        "budget.evaluations=0",
        "budget.evaluations=1e3",
        "finalise.top=0",
        "model=3",
        "model.dtype=float8",
        "model.batch_size=0",
        "model.batch_size=auto",
        "model.compile=maybe",
        "model.placement=disk",
        "model.placement=3",
        "method=3",
        "method={name: ties, settings: 3}",
        "method={name: ties, settings: {normalize: abc}}",
        "method={name: ties, options: {trim: sideways}}",
        "method=slerp",
        "method=[]",
        "method=[3]",
        "method=[ties,ties]",
        "method=[task_arithmetic,slerp]",
        "method=[task_arithmetic,nuslerp]",
        "space.subset=maybe",
        "space.subset=1",
        "space.schedule=foo",
        "space.schedule=blocks:99",
        "space.outer=x",
        "space.components=[nothing]",
        "space.genes=3",
        "+space.genes.weight=abc",
        "+space.genes.weight={low: 2, high: 1}",
        "+space.genes.weight={low: abc}",
        "optimizer=null",
        "optimizer.population=abc",
        "optimizer.population=2",
        "optimizer.sigma=abc",
        "optimizer.sigma=0",
        "pool.threads=0",
        "pool.threads=abc",
    ],
)
def test_a_value_that_cannot_be_meant_is_a_usage_error(command: Command, override: str) -> None:
    line = check(command, override)
    key = override.lstrip("+").partition("=")[0].split(".")[-1]
    assert any(word in line for word in (key, key.rstrip("s"), "merges", "dtype", "preset"))


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("method=[]",), "method: the list is empty; name at least one method"),
        (("method=[ties,{name: ties}]",), "method: ties is listed twice; list each method once"),
        (("method=[task_arithmetic,slerp]",), "method slerp merges the base with one expert, or two experts; got 3"),
        (("method=[linear,nuslerp]", "space.outer=joint"), "method nuslerp merges at most 2 experts; got 3"),
        (("method=[ties,lines]", "+space.genes.wieght=0.4"), "wieght is not a gene of ties or lines (did you mean"),
        (("method=[task_arithmetic,ties]",), "space.outer=base: ties normalises its weights and leaves the base none"),
        (("method=ties,linear",), "use key=[value1,value2]"),
        (("model.compile=maybe",), "model.compile=maybe: give one of auto, always, never"),
        (("model.placement=disk",), "model.placement=disk: give one of auto, device, pinned, mmap"),
        (("space.subset=maybe",), "space.subset=maybe: give true or false"),
        (("method=model_stock", "space.subset=true", "~experts.max"), "model_stock needs all 2 experts"),
    ],
)
def test_choices_that_cannot_be_meant_name_their_remedy(
    command: Command, overrides: tuple[str, ...], reason: str
) -> None:
    assert reason in check(command, *overrides)


@pytest.mark.parametrize("given", ["method=[ties,linear]", "method=[{name: ties, settings: {normalize: true}},linear]"])
def test_a_list_of_methods_is_typed_in_brackets(command: Command, given: str) -> None:
    """In a shell the brackets stand in quotes: method='[ties,linear]'."""
    said = command("check", "+experiment=quickstart", *SMALL, given, "space.outer=joint", "space.subset=true")
    assert said.code == 0, said
    assert (
        "ties or linear, 28 dimensions: takes_part.shift, takes_part.last, takes_part.max, method, ties.w" in said.out
    )
    assert "baselines base, shift, last, max, uniform, default (ties), default (linear)" in said.out


def test_genes_of_a_choice_go_to_the_methods_that_have_them(command: Command) -> None:
    given = ("method=[dare_ties,task_arithmetic]", "+space.genes.density=0.5", "+space.genes.weight.high=1.2")
    said = command("check", "+experiment=quickstart", *SMALL, *given)
    assert said.code == 0 and "dare_ties or task_arithmetic, 13 dimensions" in said.out, said


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("scorer.tasks=[]",), "scorer.tasks is empty"),
        (("scorer.slices={search: 0, select: 1, holdout: 1}",), "scorer.slices.search=0: give"),
        (("scorer.slices={search: all, select: all, holdout: all}",), "is empty"),
        (("scorer.slices={search: 400, select: 15, holdout: 15}",), "asks for 15 items"),
        (("scorer.slices={search: 500, select: 15, holdout: 15}",), "only"),
        (("scorer.slices={search: [1, 2], select: [2, 3], holdout: [4]}",), "copy/test/2 in both search and select"),
        (("scorer.slices={search: [9999], select: [2], holdout: [4]}",), "9999, which is not there"),
        (("scorer.slices={search: a few, select: 1, holdout: 1}",), "a few"),
        (("+scorer.slices.hold=3",), "scorer.slices.hold: unknown key"),
        (("scorer.chunk_items=0",), "chunk_items=0"),
        (("scorer.chunk_items=abc",), "chunk_items"),
        (("scorer.include_path=/no/where",), "'/no/where' is not a folder"),
        (("scorer.apply_chat_template=true",), "no chat template"),
        (("scorer.tasks=3",), "tasks"),
        (("scorer.tasks=foo",), "foo"),
        (("scorer.slices=3",), "slices"),
        (("scorer.gen_kwargs=3",), "gen_kwargs"),
        (("scorer.num_fewshot=-1",), "num_fewshot"),
        (("scorer.num_fewshot=abc",), "num_fewshot"),
    ],
)
def test_tasks_and_slices_that_cannot_be_scored(command: Command, overrides: tuple[str, ...], text: str) -> None:
    said = command("check", "+experiment=quickstart", *SMALL, *overrides)
    assert text in said.refused(said.code) and said.code in (1, 2)


def test_an_unknown_metric(project: Path) -> None:
    path = project / "conf" / "experiment" / "mine.yaml"
    path.write_text(path.read_text().replace("- name: copy\n", "- name: copy\n      metric: accuracy\n"))
    line = evomerge("check", "+experiment=mine", *SMALL, cwd=project).refused(1)
    assert "copy" in line and "accuracy" in line and "acc" in line


@pytest.mark.slow
def test_an_unknown_task(command: Command) -> None:
    """Slow: lm-eval reads its whole list of tasks."""
    assert "'no_such_task' is not in lm-eval" in check(command, "scorer.tasks=[no_such_task]", code=1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("merge_method: [", "not YAML"),
        ("just text", "not a merge recipe"),
        ("merge_method: tiess\nmodels: [{model: a}]\n", "'ties'"),
        ("merge_method: linear\n", "give either models or slices"),
        ("merge_method: linear\nmodels: []\n", "at least one"),
        ("merge_method: linear\nmodels: [{model: a, parameters: {weight: heavy}}]\n", "'heavy' is not a number"),
        (
            "merge_method: linear\nmodel: [{model: a}]\n",
            "model has no effect: it is no key of a recipe",
        ),
        ("merge_method: ties\nmodels: [{model: a, parameters: {weight: 1}}]\n", "ties needs a base_model"),
        ("merge_method: linear\nslices: [{sources: [{model: a}]}]\n", "layer_range"),
    ],
)
def test_merge_of_a_bad_recipe(command: Command, tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    line = command("merge", "bad.yaml", "out").refused(2)
    assert "bad.yaml" in line and reason in line
    assert not (tmp_path / "out").exists()


def test_merge_into_one_adapter(command: Command, tmp_path: Path) -> None:
    base = save_family("llama", tmp_path / "family", experts=0).base
    sources = [Source(save_adapter("llama", base, tmp_path / f"a{i}", 2, i)[0], {"weight": 0.5}) for i in range(2)]
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe_of_models("linear", base, tuple(sources), {})))
    assert command("merge", "r.yaml", "out", "--adapter").out == "out: rank 4, 6 tensors, exact\n"
    said = command("merge", "r.yaml", "cut", "--adapter", "--rank", "3").out
    assert said.startswith("cut: rank 3, 6 tensors, relative error 0.") and said.count("\n") == 1
    assert "add --adapter" in command("merge", "r.yaml", "no", "--rank", "3").refused(2)
    assert "--rank 0" in command("merge", "r.yaml", "no", "--adapter", "--rank", "0").refused(2)
    assert not (tmp_path / "no").exists()


def test_merge_into_an_unknown_dtype(command: Command, tmp_path: Path, finished: Path) -> None:
    text = (finished / "recipe.yaml").read_text()
    (tmp_path / "bad.yaml").write_text(text.replace("out_dtype: float32", "out_dtype: float7"))
    assert "float7" in command("merge", "bad.yaml", "out").refused(2)
    assert not (tmp_path / "out").exists()


def test_merge_of_a_recipe_whose_models_are_gone(command: Command, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("merge_method: linear\nmodels: [{model: ./gone, parameters: {weight: 1}}]\n")
    assert "./gone: no such folder" in command("merge", "r.yaml", "out").refused(1)
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


@pytest.mark.parametrize("arguments", [("merge",), ("merge", "only.yaml"), ("replay",), ("merge", "a", "b", "--what")])
def test_missing_arguments_are_a_usage_error(command: Command, arguments: tuple[str, ...]) -> None:
    assert "; see evomerge" in command(*arguments).refused(2)


def test_a_sweep_makes_a_run_folder_for_each_job(command: Command, tmp_path: Path) -> None:
    said = command(
        "-m",
        "+experiment=quickstart",
        "scorer.slices={search: 4, select: 4, holdout: 4}",
        "budget.evaluations=2",
        "seed=1,2",
    )
    assert said.code == 0, said
    folders = sorted((tmp_path / "runs").rglob("recipe.yaml"))
    assert len(folders) == 2
    assert ["seed=1" in str(folders[0]), "seed=2" in str(folders[1])] == [True, True]


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_job_that_fails(command: Command, tmp_path: Path) -> None:
    said = command(
        "-m", "+experiment=quickstart", "scorer.slices={search: 4, select: 4, holdout: 4}", "budget.evaluations=0,2"
    )
    assert said.code == 2 and "budget.evaluations=0" in said.err
    assert len(list((tmp_path / "runs").rglob("recipe.yaml"))) == 1


def test_a_real_process_prints_no_traceback_and_exits_two(tmp_path: Path) -> None:
    """Once for real: the interpreter, the entry point, the streams, the exit code, from another directory."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "evomerge", "check", "+experiment=quickstart", "budgte=3"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "did you mean 'budget'?" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_lists_the_commands(command: Command, word: str) -> None:
    said = command(word)
    assert said.code == 0 and all(name in said.out for name in ("check", "merge", "replay", "report"))


def test_an_experiment_that_is_not_yaml_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "broken.yaml").write_text("base: [\n")
    said = evomerge("check", "+experiment=broken", cwd=tmp_path)
    assert said.code == 2 and "not YAML" in said.err and "Traceback" not in said.err
