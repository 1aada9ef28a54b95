"""Packs in this process: the class in the pack gives evomerge's tensors and predictions without importing evomerge."""

import ast
import importlib.util
import json
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas
import pytest
import torch
import yaml
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from evomerge.errors import ConfigError, EvomergeError, RunError, TaskError
from evomerge.export import open_recipe
from evomerge.merging import Materializer
from evomerge.submission import Row, write_pack
from evomerge.submission.merged_model import RunMerge
from evomerge.submission.older_transformers import config_after_loading
from evomerge.submission.pack import KIT_FILES
from evomerge.submission.predictions import Scored
from evomerge.submission.validation import score_file
from tests.conftest import Command
from tests.families import shift
from tests.submission.runs import add_result, write_inputs, write_models, write_run

MIXED, FULL, ADAPTERS = ("full", "rank2", "rank3"), ("full", "other"), ("rank2", "rank3")
# (kind, method, experts, parameters of each, parameters of the recipe, form of the entries)
CASES: list[tuple[str, str, tuple[str, ...], dict[str, Any], dict[str, Any], str]] = [
    ("plain", "task_arithmetic", MIXED, {"weight": 0.4}, {}, "sum"),
    ("plain", "linear", FULL, {"weight": 0.5}, {}, "sum"),
    ("plain", "slerp", ("full",), {}, {"t": 0.3}, "sum"),
    ("plain", "model_stock", MIXED, {}, {}, "sum"),
    ("plain", "ties", MIXED, {"weight": 0.7, "density": 0.4}, {}, "vote"),
    ("plain", "dare_ties", MIXED, {"weight": 0.7, "density": 0.4}, {}, "vote"),
    ("plain", "dare_linear", ADAPTERS, {"weight": 0.7, "density": 0.4}, {}, "vote"),
    ("plain", "breadcrumbs", MIXED, {"weight": 0.7, "density": 0.4, "gamma": 0.1}, {}, "vote"),
    ("plain", "core_tsv", ADAPTERS, {}, {"alpha": 0.8}, "factors"),
    ("plain", "della", FULL, {"weight": 0.5, "density": 0.5, "epsilon": 0.1}, {}, "stored"),
    ("t5", "task_arithmetic", MIXED, {"weight": 0.4}, {}, "sum"),
    ("t5", "ties", ADAPTERS, {"weight": 0.7, "density": 0.4}, {}, "vote"),
]


class StandIn:
    """What the starter kit's class sets."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return {kind: write_models(tmp_path_factory.mktemp(kind), kind) for kind in ("plain", "t5")}


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of the names that the pack's files import."""
    merges = ModuleType("llm_merging.merging.Merges")
    merges.Merges = StandIn  # type: ignore[attr-defined]
    for name, module in (
        ("llm_merging", ModuleType("llm_merging")),
        ("llm_merging.merging", ModuleType("llm_merging.merging")),
        ("llm_merging.merging.Merges", merges),
        ("llm_merging.merging.evomerge_tensors", load(KIT_FILES / "evomerge_tensors.py")),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    yield


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def extract(pack: Path, folder: Path) -> Path:
    with tarfile.open(pack) as archive:
        archive.extractall(folder, filter="data")
    return folder / "LLM-Merging"


def merged_class(top: Path, name: str) -> Any:
    method = load(top / "llm_merging" / "merging" / f"{name}.py").EvomergeMerge(name)
    method.merge()
    return method


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_the_class_rebuilds_every_tensor(
    kit: None, tmp_path: Path, models: dict[str, dict[str, str]], case: tuple[Any, ...]
) -> None:
    kind, method, experts, each, shared, form = case
    refs = models[kind]
    run = write_run(tmp_path / "run", method, refs["base"], {refs[name]: each for name in experts}, parameters=shared)
    pack = write_pack(run, tmp_path / "p.tar", name="mine")
    top = extract(pack.path, tmp_path)
    table = json.loads((top / "llm_merging/merging/mine.json").read_text())
    assert form in {key for entry in table["tensors"].values() for key in entry}
    assert (top / "llm_merging/merging/mine.safetensors").exists() == (form in ("factors", "stored"))
    rebuilt = merged_class(top, "mine")
    recipe, family = open_recipe(run / "recipe.yaml")
    changed = 0
    for name, ours in Materializer(family, compiled=False).tensors(recipe):
        assert torch.equal(rebuilt.merged_model[name], ours), name
        changed += not torch.equal(ours, family.base.tensor(name))
    assert changed and not rebuilt.base_model.training


def test_tensors_that_the_merge_unties_become_two(kit: None, tmp_path: Path, models: dict[str, dict[str, str]]) -> None:
    base = LlamaForCausalLM.from_pretrained(models["plain"]["base"])
    base.config.tie_word_embeddings = False
    base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())
    shift(base, 0.1, seed=5)
    base.save_pretrained(tmp_path / "untied")
    experts = {str(tmp_path / "untied"): {"weight": 0.5}}
    run = write_run(tmp_path / "run", "task_arithmetic", models["plain"]["base"], experts)
    rebuilt = merged_class(extract(write_pack(run, tmp_path / "p.tar", name="mine").path, tmp_path), "mine")
    recipe, family = open_recipe(run / "recipe.yaml")
    ours = dict(Materializer(family, compiled=False).tensors(recipe))
    head, embedding = rebuilt.base_model.lm_head.weight, rebuilt.base_model.model.embed_tokens.weight
    assert torch.equal(head, ours["lm_head.weight"]) and torch.equal(embedding, ours["model.embed_tokens.weight"])
    assert not torch.equal(head, embedding)


def test_models_of_the_hub_are_loaded_at_their_revisions_in_the_recipes_dtype(
    kit: None, tmp_path: Path, models: dict[str, dict[str, str]]
) -> None:
    refs = models["plain"]
    experts = {refs[name]: {"weight": 0.4} for name in MIXED}
    run = write_run(tmp_path / "run", "task_arithmetic", refs["base"], experts, dtype="bfloat16")
    top = extract(write_pack(run, tmp_path / "p.tar", name="mine").path, tmp_path)
    path = top / "llm_merging/merging/mine.json"
    table = json.loads(path.read_text())
    folders = {f"owner/m{number}": model["path"] for number, model in enumerate(table["models"])}
    table["models"] = [{"path": name, "revision": f"r{name}"} for name in folders]
    path.write_text(json.dumps(table))
    module = load(top / "llm_merging/merging/mine.py")

    def download(name: str, *, revision: str, allow_patterns: list[str], token: str | None) -> str:
        assert revision == f"r{name}" and "*.safetensors" in allow_patterns and token is None
        return folders[name]

    module.snapshot_download = download  # type: ignore[attr-defined]
    rebuilt = module.EvomergeMerge("mine")
    rebuilt.merge()
    assert rebuilt.list_models == [(f"owner/m{number}", f"rowner/m{number}") for number in (1, 2, 3)]
    recipe, family = open_recipe(run / "recipe.yaml")
    for name, ours in Materializer(family, compiled=False).tensors(recipe, torch.bfloat16):
        assert torch.equal(rebuilt.merged_model[name], ours), name


@pytest.mark.parametrize("kind", ["plain", "t5"])
def test_the_class_predicts_what_the_pack_says(
    kit: None, tmp_path: Path, models: dict[str, dict[str, str]], kind: str
) -> None:
    refs = models[kind]
    run = write_run(tmp_path / "run", "ties", refs["base"], {refs["full"]: {"weight": 0.5, "density": 0.5}})
    file = write_inputs(tmp_path / "test.csv", 8, ("A", "B", "C", "long one", "it's "))
    top = extract(write_pack(run, tmp_path / "p.tar", [file], name="mine").path, tmp_path)
    found = pandas.read_csv(top / "mine/predictions/submission.csv", dtype=str)
    rebuilt, rows = merged_class(top, "mine"), pandas.read_csv(file).to_dict("records")
    theirs = [
        str(rebuilt.predict_multiple_choice({key: [row[key]] for key in ("input", "answer_choices")})[0].tolist()[0])
        for row in rows
    ]
    assert list(found["prediction"]) == theirs and len(set(theirs)) > 1


def test_the_table_has_what_older_versions_of_transformers_lose(
    tmp_path: Path, models: dict[str, dict[str, str]]
) -> None:
    refs = models["plain"]
    run = write_run(tmp_path / "run", "task_arithmetic", refs["base"], {refs["full"]: {"weight": 0.5}})
    top = extract(write_pack(run, tmp_path / "p.tar", name="mine").path, tmp_path)
    table = json.loads((top / "llm_merging/merging/mine.json").read_text())
    assert table["config"]["rope_theta"] == 500.0 and table["config"]["tie_word_embeddings"] is True
    assert table["plain_tokenizer"] and table["predict"] == "right" and table["dtype"] == "float32"


def test_the_report_names_scores_of_both_conventions(tmp_path: Path, models: dict[str, dict[str, str]]) -> None:
    refs = models["plain"]
    run = write_run(tmp_path / "run", "task_arithmetic", refs["base"], {refs["full"]: {"weight": 0.5}})
    long = write_inputs(tmp_path / "long.csv", 4, ("no way", "yes I do", "it's "))
    short = write_inputs(tmp_path / "short.csv", 4, ("A", "B", "C"))
    top = extract(write_pack(run, tmp_path / "p.tar", [long, short], name="mine").path, tmp_path)
    report = (top / "mine/REPORT.md").read_text()
    assert "| long.csv | 4 | right | accuracy" in report and "| long.csv | 4 | kit | accuracy" in report
    assert "| short.csv | 4 | kit | no predictions |" in report and "short.csv: row 1: all choices are single" in report
    assert "**Folders of this machine**" in (top / "mine/RULES.md").read_text()


def test_the_texts_are_filled_from_the_run(tmp_path: Path, models: dict[str, dict[str, str]]) -> None:
    refs = models["plain"]
    experts = {refs["full"]: {"weight": 0.5}, refs["rank2"]: {"weight": 0.5}}
    run = write_run(tmp_path / "run", "linear", refs["base"], experts)
    add_result(run, {"whole": refs["full"], "lora": refs["rank2"].partition("+")[2]})
    top = extract(write_pack(run, tmp_path / "p.tar", name="mine").path, tmp_path)
    rules, report = (top.joinpath("mine", name).read_text() for name in ("RULES.md", "REPORT.md"))
    assert "| licence | whole | ok | mit/whole |  |" in rules
    for label in ("whole", "lora"):
        assert re.search(rf"^\| {label} \| /.* \| – \| mit/{label} \| \[date", report, re.MULTILINE), report
    assert "the winner scores 0.750; the best baseline is base, the difference +0.500 [0.400, 0.600] (better)" in report
    assert "| base | 0.500 | [0.400, 0.600] | 0.010 | 0.020 | McNemar | better |" in report
    assert "tasks:\n- law" in report and "| search: this time | 34 |" in report


@pytest.mark.parametrize("file", sorted(KIT_FILES.glob("*.py")), ids=lambda file: file.name)
def test_the_packs_files_are_python_of_the_kits_version_and_need_no_evomerge(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 10))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [module for module in modules if module.partition(".")[0] == "evomerge"]


def test_what_cannot_be_packed_is_refused_before_weights_are_read(
    tmp_path: Path, models: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunMerge, "load", lambda *_: pytest.fail("weights were read"))
    refs = models["plain"]
    run = write_run(tmp_path / "run", "task_arithmetic", refs["base"], {refs["full"]: {"weight": 0.5}})
    short = write_inputs(tmp_path / "short.csv", 2, ("A", "B", "C"))
    bad = tmp_path / "bad.csv"
    bad.write_text("id,input,answer_choices,eval_type\n1,a,,nothing\n")
    out = tmp_path / "p.tar"
    cases: list[tuple[type[EvomergeError], str, tuple[Any, ...], dict[str, Any]]] = [
        (ConfigError, "exists already", (run, bad), {}),
        (ConfigError, "its folder is not there", (run, tmp_path / "no" / "p.tar"), {}),
        (TaskError, "row 1: eval_type is nothing", (run, out, [bad]), {}),
        (
            TaskError,
            "row 1: all choices are single tokens .* use --predict right",
            (run, out, [short]),
            {"predict": "kit"},
        ),
        (RunError, "no config.yaml", (tmp_path, out), {}),
        (ConfigError, "give small letters", (run, out), {"name": "My Name"}),
    ]
    for kind, message, arguments, options in cases:
        with pytest.raises(kind, match=message):
            write_pack(*arguments, **options)
    assert not (tmp_path / "p.tar").exists()


def test_a_recipe_with_slices_is_refused(tmp_path: Path, models: dict[str, dict[str, str]]) -> None:
    base = models["plain"]["base"]
    run = write_run(tmp_path / "run", "linear", base, {})
    part = {"sources": [{"model": base, "layer_range": [0, 2], "parameters": {"weight": 1.0}}]}
    recipe = {"merge_method": "linear", "base_model": base, "slices": [part, part], "dtype": "float32"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(ConfigError, match="a recipe with slices"):
        write_pack(run, tmp_path / "p.tar")


def test_rows_that_cost_predictions_are_named(tmp_path: Path, models: dict[str, dict[str, str]]) -> None:
    refs, said = models["plain"], list[str]()
    run = write_run(tmp_path / "run", "task_arithmetic", refs["base"], {refs["full"]: {"weight": 0.5}})
    file = tmp_path / "rows.csv"
    choices = [f"choice {number}" for number in range(12)]
    file.write_text(f'id,input,answer_choices,eval_type\n1,a,"{choices}",multiple_choice\n2,{"a" * 2040},,generation\n')
    write_pack(run, tmp_path / "p.tar", [file], say=said.append, max_gen_len=20)
    assert any("row 2 leaves no room" in line and "--max-seq-len 2028" in line for line in said), said
    assert any("row 1 has more than 10 choices" in line for line in said)


def test_the_command_writes_the_pack(command: Command, tmp_path: Path, models: dict[str, dict[str, str]]) -> None:
    refs = models["plain"]
    run = write_run(tmp_path / "run", "task_arithmetic", refs["base"], {refs["full"]: {"weight": 0.5}})
    file = write_inputs(tmp_path / "a.csv", 3)
    done = command("submit", str(run), "p.tar", "--inputs", str(file), "--max-gen-len", "4")
    assert done.code == 0 and "a.csv: 3 predictions" in done.out, done
    assert (extract(tmp_path / "p.tar", tmp_path / "x") / "evomerge_run/predictions/a.csv").is_file()
    assert "exists already" in command("submit", str(run), "p.tar").refused(2)
    assert "invalid choice" in command("submit", str(run), "q.tar", "--predict", "wrong").refused(2)


def test_a_row_to_generate_may_have_choices(
    kit: None, tmp_path: Path, models: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The starter kit's own function tokenises them, and fails for an empty list."""
    refs = models["plain"]
    run = write_run(tmp_path / "run", "task_arithmetic", refs["base"], {refs["full"]: {"weight": 0.5}})
    rebuilt = merged_class(extract(write_pack(run, tmp_path / "p.tar", name="mine").path, tmp_path), "mine")
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(StandIn, "generate", lambda self, batch: seen.append(batch), raising=False)
    rebuilt.generate({"id": [1], "input": [5], "answer_choices": ["[]"], "eval_type": ["generation"]})
    assert seen == [{"input": ["5"]}]


def test_a_choice_that_does_not_fit_is_named_by_its_row(tmp_path: Path, models: dict[str, dict[str, str]]) -> None:
    refs = models["plain"]
    run = write_run(tmp_path / "run", "task_arithmetic", refs["base"], {refs["full"]: {"weight": 0.5}})
    long = write_inputs(tmp_path / "long.csv", 3, ("no", "yes", "x"))
    long.write_text(long.read_text() + f"99,Who?,0,\"['a', '{'b' * 5000}']\",multiple_choice\n")
    with pytest.raises(TaskError, match=r"long.csv: row 4: .* does not fit the model"):
        write_pack(run, tmp_path / "p.tar", [long], name="mine")


def test_an_unscaled_t5_of_transformers_5_is_unscaled_in_the_kit(tmp_path: Path) -> None:
    config = {"model_type": "t5", "tie_word_embeddings": True, "scale_decoder_outputs": False}
    for stored, expected in ((config, {"tie_word_embeddings": False}), ({**config, "scale_decoder_outputs": True}, {})):
        (tmp_path / "config.json").write_text(json.dumps(stored))
        save_file({"shared.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
        assert config_after_loading(tmp_path) == expected


@pytest.mark.parametrize(
    ("target", "choices", "index"), [("2", ("2", "0", "1"), "2"), ("2.0", ("2", "0", "1"), "2"), ("b", ("a", "b"), "1")]
)
def test_a_target_is_an_index_before_it_is_a_text(target: str, choices: tuple[str, ...], index: str) -> None:
    row = Row(1, "?", choices, str(choices), target)
    assert score_file(Scored(Path("f.csv"), [row], [index])) == {"accuracy": 1.0}


def test_an_encoder_decoder_has_room_for_answers(tmp_path: Path, models: dict[str, dict[str, str]]) -> None:
    refs, said = models["t5"], list[str]()
    run = write_run(tmp_path / "run", "task_arithmetic", refs["base"], {refs["full"]: {"weight": 0.5}})
    inputs = [write_inputs(tmp_path / "long.csv", 3), write_inputs(tmp_path / "kit.csv", 3, ("no", "yes", "x"))]
    write_pack(run, tmp_path / "p.tar", inputs, name="mine", predict="kit", max_gen_len=600, say=said.append)
    assert not any("no room" in line for line in said)
    assert any("kit.csv: the kit takes each character" in line for line in said)
