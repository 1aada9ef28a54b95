"""`score` prints what `lm_eval` prints, for a folder and for a recipe that is merged in memory."""

import json
import logging
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.errors import ConfigError, EvomergeError
from evomerge.experiment.finished_model import score_model
from evomerge.export import merge_recipe
from evomerge.models import plain_folder
from evomerge.recipes import dump_recipe
from evomerge.scoring.tasks.engine_lm import EngineLM
from tests.conftest import QUICKSTART, evomerge
from tests.gguf_files import model, write
from tests.scoring.conftest import char_tokenizer, random_model
from tests.scoring.engine.test_loglikelihood import SHAPES
from tests.workers.test_worker import merged

SHIFT = QUICKSTART / "family" / "shift"
CHOICE: dict[str, Any] = {
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{query}}",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
}


def task(name: str, **changes: Any) -> dict[str, Any]:
    files = {"data_files": {"test": str(QUICKSTART / "data" / f"{name}.jsonl")}}
    return {"name": name, "spec": CHOICE | {"dataset_kwargs": files} | changes}


GENERATED = task(
    "copy",
    output_type="generate_until",
    doc_to_choice=None,
    doc_to_target="{{choices[gold]}}",
    generation_kwargs={"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
    metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
)


def harness(folder: Path, tasks: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    """Task → metrics of lm-eval's own class."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = HFLM(pretrained=str(folder), device="cpu", batch_size=16, softmax_dtype="float32")
    specs = [{**entry["spec"], "task": entry["name"]} for entry in tasks]
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=lm, tasks=specs, task_manager=TaskManager(include_defaults=False), log_samples=False, **options
    )["results"]
    return found


def test_a_folder_gets_the_table_of_the_harness() -> None:
    tasks = [task("shift"), task("last"), GENERATED]
    ours = score_model(str(SHIFT), {"tasks": tasks, "limit": 40, "device": "cpu"}, Console(quiet=True))
    theirs = harness(SHIFT, tasks, limit=40)
    assert ours.results["results"] == theirs and 0 < theirs["last"]["acc,none"] < 1
    assert json.loads(ours.text())["results"] == theirs
    assert "|shift" in "".join(ours.tables())


def test_shots_and_system_prompt_are_those_of_the_harness() -> None:
    options = {"num_fewshot": 2, "system_instruction": "copy", "limit": 20}
    ours = score_model(str(SHIFT), {"tasks": [task("last")], "device": "cpu", **options}, Console(quiet=True))
    assert ours.results["results"] == harness(SHIFT, [task("last")], **options)


def test_a_recipe_is_scored_as_its_export_is(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(merged(0.6, 0.3)))
    merge_recipe(tmp_path / "recipe.yaml", tmp_path / "out")
    given = {"tasks": [task("last")], "device": "cpu", "limit": 50}
    of_recipe, of_folder = (
        score_model(str(tmp_path / name), given, Console(quiet=True)).results["results"]
        for name in ("recipe.yaml", "out")
    )
    assert of_recipe == of_folder == harness(tmp_path / "out", [task("last")], limit=50)


@pytest.mark.parametrize("scoring", ["auto", "plain"])
def test_the_class_answers_as_its_parent_does(scoring: str) -> None:
    model, tokenizer = random_model("llama"), char_tokenizer()
    ours = EngineLM(model, tokenizer, scoring=scoring)
    plain = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=1)
    for shape in ("few-shot", "rolling", "empty contexts"):
        requests = [lm_eval.api.instance.Instance(r.kind, {}, r.arguments, 0) for r in SHAPES[shape]]
        kind = requests[0].request_type
        theirs = getattr(plain, kind)(requests, disable_tqdm=True)
        assert _numbers(getattr(ours, kind)(requests)) == pytest.approx(_numbers(theirs), rel=1e-6, abs=1e-4)


def _numbers(answers: list[Any]) -> list[float]:
    return [answer if isinstance(answer, float) else answer[0] for answer in answers]


@pytest.mark.parametrize(
    ("source", "given", "text"),
    [
        (str(SHIFT), {}, "tasks: missing; give a text or a list"),
        (str(SHIFT), {"task": "x"}, "task: unknown key (did you mean 'tasks'?)"),
        (str(SHIFT), {"tasks": [task("last", doc_to_txt="x")]}, "unknown key 'doc_to_txt' in spec"),
        (str(SHIFT), {"tasks": [task("last")], "dtype": "float99"}, "dtype=float99: give one of"),
        (str(SHIFT), {"tasks": [task("last")], "scoring": "fast"}, "scoring=fast: give one of auto, tree, plain"),
        (str(SHIFT), {"tasks": [task("last")], "limit": 0}, "limit=0: give a number above 0"),
        (str(SHIFT), {"tasks": [task("last")], "num_fewshot": -1}, "num_fewshot=-1: give a whole number at least 0"),
        (str(SHIFT), {"tasks": [task("last")], "max_length": 0}, "max_length=0: give a whole number at least 1"),
        (str(SHIFT), {"tasks": [task("last")], "out": "/no/such/folder/x.json"}, "its folder is not there; make it"),
        (str(SHIFT), {"tasks": [task("last")], "apply_chat_template": True}, "has no chat template; unset it"),
        (
            str(SHIFT),
            {
                "tasks": [task("last", doc_to_choice="{{['aaaa', 'bbbb', 'cccc', 'dddd']}}")],
                "limit": 2,
                "max_length": 3,
            },
            "an answer of 5; neither may be empty, an answer has at most 3",
        ),
        (str(SHIFT), {"tasks": [task("last", doc_to_target="{{1 // 0}}")], "limit": 2}, "ZeroDivisionError"),
        ("/no/such/model", {"tasks": [task("last")]}, "/no/such/model"),
        ("/no/such/recipe.yaml", {"tasks": [task("last")]}, "/no/such/recipe.yaml"),
    ],
)
def test_what_is_wrong_is_one_line(source: str, given: dict[str, Any], text: str) -> None:
    with pytest.raises((EvomergeError, OSError)) as error:
        score_model(source, given, Console(quiet=True))
    assert text in str(error.value) and "\n" not in str(error.value)


def test_an_adapter_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="a LoRA adapter; give a recipe"):
        score_model(str(tmp_path), {"tasks": [task("last")]}, Console(quiet=True))


def test_the_command_prints_the_table_and_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nor do the programs that lm-eval starts, such as git outside a repository."""
    spec = json.dumps([task("shift")])
    done = evomerge("score", str(SHIFT), f"tasks={spec}", "limit=20", "device=cpu", cwd=tmp_path)
    assert done.code == 0 and "|shift|" in done.out and "%" not in done.out
    assert capfd.readouterr() == ("", "")
    assert "nothing-here" in evomerge("score", "nothing-here", f"tasks={spec}", cwd=tmp_path).refused(1)
    assert "give a folder" in evomerge("score", "tasks=a", cwd=tmp_path).refused(2)


@pytest.mark.filterwarnings("ignore")  # of gguf's reader and of transformers' loader
def test_a_gguf_file_scores_as_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    rows = [{"query": "abz", "choices": ["cd", "x", "yz"], "gold": place % 3} for place in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = task("letters", dataset_kwargs={"data_files": {"test": str(tmp_path / "rows.jsonl")}})
    file = write(model(), tmp_path / "tiny.gguf")
    given = {"tasks": [entry], "dtype": "float32", "device": "cpu"}
    found = score_model(str(file), given, Console(quiet=True)).results["results"]
    copy = plain_folder(file)
    AutoModelForCausalLM.from_pretrained(copy).save_pretrained(tmp_path / "folder")
    AutoTokenizer.from_pretrained(copy).save_pretrained(tmp_path / "folder")
    assert found == score_model(str(tmp_path / "folder"), given, Console(quiet=True)).results["results"]
    assert found["letters"]["acc,none"] == pytest.approx(1 / 3)
