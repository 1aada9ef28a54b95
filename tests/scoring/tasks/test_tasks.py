"""What cannot be loaded, built or scored is refused in one line that names the task and the remedy."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from evomerge.errors import TaskError
from evomerge.scoring.tasks import loading as tasks

# A file of a user's, which lm-eval includes: its functions have no name in lm-eval's registry.
SPREAD = """
def spread(values):
    return max(values) - min(values)
"""


@pytest.fixture
def refused(freeze: Any) -> Any:
    def refused(entry: Any, **options: Any) -> str:
        with pytest.raises(TaskError) as error:
            freeze(entry, **options)
        assert "\n" not in str(error.value) and str(error.value).startswith("task 'mc")
        return str(error.value)

    return refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "acc_nrom"}, "no metric 'acc_nrom'; it has acc, acc_norm"),
        ({"filter": "strict"}, "no filter 'strict'; it has none"),
        ({"splits": {"holdout": "test"}}, "no split 'test'; its data has validation"),
        ({"gen_kwargs": {"max_gen_toks": 3}}, "generates nothing; drop its gen_kwargs"),
        ({"search": 300}, "asks for 300 items"),
    ],
)
def test_a_wrong_entry(refused, choice, changes, message) -> None:
    assert message in refused({"name": "mc", "spec": choice(), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doc_to_txt": "{{q}}"}, "unknown key 'doc_to_txt' in spec (did you mean 'doc_to_text'?)"),
        ({"dataset_path": None}, "spec has no dataset_path"),
        ({"doc_to_text": "{{nothing}}"}, "'nothing' is undefined"),
        ({"test_split": "tset"}, "KeyError: 'tset'"),
        (
            {"dataset_kwargs": {"data_files": {"validation": "/none/x.jsonl"}}},
            "Unable to find '/none/x.jsonl'",
        ),
        ({"num_fewshot": 0, "shots": 2}, "fixes num_fewshot to 0"),
        ({"shots": 100}, "cannot build its prompts"),
        ({"unsafe_code": True}, "runs code that the model writes"),
        ({"doc_to_image": ["q"]}, "needs images or audio"),
    ],
)
def test_a_wrong_spec(refused, choice, changes, message) -> None:
    shots = {"num_fewshot": changes["shots"]} if "shots" in changes else {}
    spec = choice(**{key: value for key, value in changes.items() if key != "shots"})
    assert message in refused({"name": "mc", "spec": spec, **shots})


@pytest.mark.parametrize("more", [[], [{"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}]])
def test_an_aggregation_that_has_no_name_is_refused(refused, choice, tmp_path: Path, more) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "functions.py").write_text(SPREAD)
    text = yaml.safe_dump(choice(task="mc", metric_list=[{"metric": "acc", "aggregation": "HERE"}, *more]))
    (folder / "mc.yaml").write_text(text.replace("HERE", "!function functions.spread"))
    line = refused("mc", include_path=str(folder))
    assert "metric 'acc' is no mean over items, nor in lm-eval's registry" in line
    assert "name its function: aggregate: path" in line and ("use acc_norm, or" in line) == bool(more)


@pytest.mark.parametrize(("text", "message"), [("", "has no documents"), ("{broken\n", "JSON parse error")])
def test_a_wrong_data_file(refused, choice, tmp_path: Path, text, message) -> None:
    spec = choice()
    path = Path(spec["dataset_kwargs"]["data_files"]["validation"])
    path.write_text(text)
    assert message in refused({"name": "mc", "spec": spec})


def test_chat_template_options_are_checked(choice, freeze) -> None:
    entry = {"name": "mc", "spec": choice()}
    with pytest.raises(TaskError, match="no chat template"):
        freeze(entry, tokenizer=None, apply_chat_template=True)
    with pytest.raises(TaskError, match="needs apply_chat_template"):
        freeze(entry, fewshot_as_multiturn=True)


def test_include_path_must_be_a_folder(choice, freeze, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"include_path '.*none' is not a folder"):
        freeze({"name": "mc", "spec": choice()}, include_path=str(tmp_path / "none"))


def test_inline_and_folder_tasks_never_build_the_full_index(choice, freeze, tmp_path, monkeypatch) -> None:
    real = tasks.TaskManager

    def only_mine(*, include_path: Any = None, include_defaults: bool = True) -> Any:
        assert not include_defaults
        return real(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(tasks, "TaskManager", only_mine)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(yaml.safe_dump(choice("mine", task="mine")))
    scorer = freeze("mine", include_path=str(tmp_path / "tasks"))
    assert scorer.plan.items("search")[0].startswith("mine/validation/")


@pytest.mark.slow
def test_unknown_names_are_compared_with_all_of_lm_eval(freeze, tmp_path) -> None:
    with pytest.raises(TaskError, match=r"task 'arc_eazy' is not in lm-eval, .*did you mean 'arc_easy'"):
        freeze("arc_eazy")


def test_a_group_that_refers_to_a_builtin_task_needs_the_full_index() -> None:
    def entry(cfg: Any) -> Any:
        return type("Entry", (), {"cfg": cfg})

    index = {
        "mine": entry({"task": "mine"}),
        "pair": entry({"group": "pair", "task": ["mine", {"task": "new", "dataset_path": "json"}]}),
        "mixed": entry({"group": "mixed", "task": ["pair", {"task": "arc_easy", "num_fewshot": 1}]}),
    }
    assert [tasks._complete(index, name) for name in ("mine", "pair", "mixed", "none")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_cache_that_cannot_be_written_is_named_with_what_moves_it(
    refused: Any, choice: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    cache = str(tmp_path / "file" / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    given = {"data_files": choice()["dataset_kwargs"]["data_files"]}
    line = refused({"name": "mc", "spec": choice(dataset_kwargs=given)})
    assert f"its cache {cache} cannot be written" in line and "set HF_HOME, or HF_DATASETS_CACHE" in line
    own = str(tmp_path / "file" / "own")
    line = refused({"name": "mc", "spec": choice(dataset_kwargs={**given, "cache_dir": own})})
    assert f"its cache {own} cannot be written" in line and "give another cache_dir" in line and "HF_HOME" not in line


@pytest.mark.slow
def test_no_task_of_the_harness_is_taken_for_unheard_of() -> None:
    """Slow: lm-eval reads its whole list of tasks."""
    index = tasks.TaskManager().task_index
    assert set(index) <= tasks.names_in_task_files() and "no_such_task" not in tasks.names_in_task_files()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric_list": []}, "its metric_list is empty"),
        ({"metric_list": [{"metric": "nonsense"}]}, "lm-eval has no metric nonsense"),
        ({"doc_to_target": "{{[1]}}"}, "doc_to_target is a list of one, [1], in each document; give its entry"),
        ({"doc_to_target": "no such choice"}, "doc_to_target names none of the choices, but 'no such choice'"),
    ],
)
def test_what_could_never_be_graded_is_refused_before_a_model_is_loaded(refused, choice, changes, message) -> None:
    assert message in refused({"name": "mc", "spec": choice(**changes)})
