"""Requests: labels, task names and folders that follow from paths, and one line for what is missing."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.autoconfig import Request
from evomerge.errors import ConfigError, RunError, TaskError


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (("org/a", "org/b"), ["a", "b"]),
        (("x/math", "y/math"), ["x-math", "y-math"]),
        (("org/model-math@1a2b3c", "org/law"), ["model-math", "law"]),
        (("base", "uniform"), ["base-expert", "uniform-expert"]),
    ],
)
def test_labels_tell_experts_apart(paths: tuple[str, ...], labels: list[str]) -> None:
    assert list(Request.of("org/base-model", paths, ["gsm8k"]).experts) == labels


def test_names_of_the_run_and_of_tasks(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        rows = "".join(f"who is {number}?,me\n" for number in range(40))
        (tmp_path / folder / "my questions.csv").write_text(f"question,answer\n{rows}")
    files = [str(tmp_path / folder / "my questions.csv") for folder in ("one", "two")]
    request = Request.of("org/base", ["org/a"], ["gsm8k", *files], hours=2)
    assert [task["name"] for task in request.tasks] == ["gsm8k", "my-questions", "my-questions-2"]
    assert request.folder == Path("runs/base+a")
    assert Request.of("b", {"x": "y"}, ["gsm8k"], out=tmp_path / "o").name == "o"


@pytest.mark.parametrize(
    ("arguments", "keywords", "said"),
    [
        (("base", [], ["gsm8k"]), {}, "no expert"),
        (("base", ["a"], []), {}, "no task: add --tasks"),
        (("base", ["a", "a"], ["gsm8k"]), {}, "a: given twice"),
        (("base", ["base"], ["gsm8k"]), {}, "base and expert are the same"),
        (("base", ["a"], ["gsm8k", "gsm8k"]), {}, "'gsm8k' is listed twice"),
        (("base", ["a"], ["gsm8k"]), {"hours": 0}, "hours=0: give a number above 0"),
        (("base", ["a"], ["gsm8k"]), {"items": -3}, "items=-3: give a number above 0"),
        (("base", ["a"], ["nothere.csv"]), {}, "nothere.csv: No such file"),
        (("base", ["./nothere"], ["gsm8k"]), {}, "./nothere: no such folder"),
        (("/nope/base", ["a"], ["gsm8k"]), {}, "/nope/base: no such folder"),
        (("base", [3], ["gsm8k"]), {}, "experts"),
        (("base", ["a"], [None]), {}, "task None: give a name"),
        (("base", ["a"], ["gsm8k"]), {"out": 5}, "out=5: give the path"),
    ],
)
def test_what_is_missing_is_one_line(arguments: Any, keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Request.of(*arguments, **keywords)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_one_expert_and_one_task_may_be_texts(tmp_path: Path) -> None:
    request = Request.of("org/base", "org/math", "gsm8k")
    assert dict(request.experts) == {"math": "org/math"} and request.tasks == ({"name": "gsm8k"},)


def test_local_models_are_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("base", "law"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    near, far = (Request.of(f"{start}base", [f"{start}law"], ["gsm8k"]) for start in ("", f"{tmp_path}/"))
    assert near.identity() == far.identity() and near.base == str(tmp_path / "base")
    with pytest.raises(ConfigError, match="base and expert are the same"):
        Request.of("base", ["./base/"], ["gsm8k"])


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is an adapter; the first model is the base"):
        Request.of(str(tmp_path), ["org/a"], ["gsm8k"])


def test_a_file_with_few_questions_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text("question,answer\n" + "".join(f"who is {number % 31}?,me\n" for number in range(62)))
    with pytest.raises(ConfigError, match=r"task 'few' has 31 different questions; it needs 32 or more"):
        Request.of("org/base", ["org/a"], [str(path)])


def test_a_file_of_both_kinds_of_rows_becomes_two_tasks(tmp_path: Path) -> None:
    path = tmp_path / "contest.csv"
    rows = "".join(
        f"{n},Is it {n}?,1,\"['no', 'yes']\",multiple_choice\n{n},Sum {n} up,ok,,generation\n" for n in range(40)
    )
    path.write_text(f"id,input,target,answer_choices,eval_type\n{rows}")
    tasks = Request.of("org/base", "org/a", str(path)).tasks
    assert [(task["name"], task["rows"]) for task in tasks] == [
        ("contest-multiple_choice", "multiple_choice"),
        ("contest-generation", "generation"),
    ]


def test_inputs_belong_to_rules_with_a_starter_kit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="inputs are predicted for a contest's submission; name its rules"):
        Request.of("org/base", "org/a", "gsm8k", inputs=["test.csv"])
    path = tmp_path / "test.csv"
    path.write_text("id,input,answer_choices,eval_type\n1,Who?,,generation\n")
    request = Request.of("org/base", "org/a", "gsm8k", inputs=[path], rules="lmc2024")
    assert request.hours == 1.0 and request.submission == {"pack": True, "inputs": [str(path)]}
    path.write_text("id,input,answer_choices,eval_type\n1,Who?,,sung\n")
    with pytest.raises(TaskError, match="row 1: eval_type is sung"):
        Request.of("org/base", "org/a", "gsm8k", inputs=[path], rules="lmc2024")
    assert Request.of("org/base", "org/a", "gsm8k").submission == {}


@pytest.mark.parametrize(
    ("recorded", "most", "is_same"),
    [(8, None, True), (8, 8, True), (8, 4, False), (None, 4, False), (8, 30, False), (None, 30, True)],
)
def test_another_number_of_experts_to_merge_is_another_search(
    tmp_path: Path, recorded: int | None, most: int | None, is_same: bool
) -> None:
    experts = [f"org/e{number}" for number in range(12)]
    request = Request.of("org/base", experts, ["gsm8k"], most=most)
    found = {"base": "org/base", "experts": dict(request.experts), "seed": 1, "scorer": {"tasks": ["gsm8k"]}}
    found |= {"screen": {"most": recorded}} if recorded else {}
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(found))
    if is_same:
        request.refuse_other_search(path)
        return
    with pytest.raises(RunError, match="another search, with other most; give another folder"):
        request.refuse_other_search(path)
