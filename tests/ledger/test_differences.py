"""What a refusal says about two configurations."""

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import RunError
from evomerge.ledger import refuse_other_search
from evomerge.ledger.differences import differences, show_differences

CHOICES = {"a": ["{{a}}", "{{b}}"], "b": "{{[a, b]}}"}


def config(choices: Any, **others: Any) -> dict[str, Any]:
    spec = {"dataset_path": "csv", "doc_to_choice": choices, "doc_to_text": "Question: {{question}}\n" * 40}
    return {"scorer": {"tasks": ["gsm8k", {"name": "agnews", "spec": spec}]}, "seed": 1, **others}


def test_a_corrected_task_is_named_by_its_key_alone() -> None:
    shown = show_differences(config(CHOICES["a"]), config(CHOICES["b"]))
    assert shown == "scorer.tasks[agnews].spec.doc_to_choice: ['{{a}}', '{{b}}'] → {{[a, b]}}"


def test_equal_configurations_do_not_differ() -> None:
    assert list(differences(config("x"), config("x"))) == []


def test_named_entries_are_compared_by_name_whatever_their_place() -> None:
    old = {"tasks": [{"name": "one", "weight": 1}, {"name": "two", "weight": 1}]}
    new = {"tasks": ["three", {"name": "two", "weight": 2}, {"name": "one", "weight": 1}]}
    assert show_differences(old, new) == "tasks[two].weight: 1 → 2; tasks[three]: absent → {'name': 'three'}"


def test_a_new_order_is_a_difference_of_its_own() -> None:
    old, new = [{"name": "one"}, {"name": "two"}], [{"name": "two"}, {"name": "one"}]
    assert show_differences({"tasks": old}, {"tasks": new}) == "the order of tasks: ['one', 'two'] → ['two', 'one']"


def test_entries_without_names_are_compared_by_place() -> None:
    assert show_differences({"m": [{"a": 1}, {"a": 2}]}, {"m": [{"a": 1}, {"a": 3}]}) == "m[1].a: 2 → 3"
    assert show_differences({"m": [{"a": 1}]}, {"m": []}) == "m: [{'a': 1}] → []"
    assert show_differences({"m": ["x", {"name": "x"}]}, {"m": ["x"]}).startswith("m: ")  # one name twice


def test_long_values_are_cut_to_where_they_differ() -> None:
    old, new = "Answer the question.\n" * 30 + "A: ", "Answer the question.\n" * 30 + "Answer: "
    shown = show_differences({"text": old}, {"text": new})
    assert shown == "text: …uestion. A: → …uestion. Answer:"


def test_only_the_first_few_are_listed() -> None:
    shown = show_differences(dict.fromkeys("abcdef", 1), dict.fromkeys("abcdef", 2))
    assert shown == "a: 1 → 2; b: 1 → 2; c: 1 → 2; d: 1 → 2 and 2 more"


@pytest.mark.parametrize(
    ("folder", "command"),
    [("runs/mine", "name=mine-3 "), ("runs/vision/first", "name=vision/first-2 "), ("out", "hydra.run.dir=out-2 ")],
)
def test_the_refusal_says_how_to_start_afresh(
    folder: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/mine-2").mkdir(parents=True)
    ledger = Path(folder) / "trials.jsonl"
    ledger.parent.mkdir(parents=True)
    ledger.write_text(json.dumps({"schema": 1, "config": config(CHOICES["a"])}) + "\n")
    with pytest.raises(RunError) as caught:
        refuse_other_search(ledger, {"config": config(CHOICES["b"])})
    line = str(caught.value)
    assert f"add {command}(with an experiment file: --out " in line and f"to the command, or delete {folder}" in line
    assert len(line) < 350
