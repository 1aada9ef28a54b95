"""The rows of the three skills: right answers, splits that share no query, files that are there already are kept."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "skills" / "data.py"
SKILLS = ("arith", "clinc", "sst2")


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT), run_name="skills_data")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Two clones in small."""
    clinc = tmp_path / "oos-eval" / "data"
    sst2 = tmp_path / "pytorch-sentiment-classification" / "data" / "SST2"
    clinc.mkdir(parents=True)
    sst2.mkdir(parents=True)
    (clinc / "domains.json").write_text('{"home": ["lights"], "small_talk": ["joke"]}')
    pairs = {split: [[f"{split} {n}, please", "lights"] for n in range(3)] for split in ("val", "test", "oos_test")}
    pairs["train"] = [["VAL 1 please!", "lights"], ["dim the lamp", "lights"], ["tell a joke", "joke"]]
    (clinc / "data_full.json").write_text(json.dumps(pairs))
    for split in ("train", "dev", "test"):
        (sst2 / f"{split}.tsv").write_text(f"a good film for {split}\t1\na bad film for {split}\t0\n")
    return tmp_path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_problem_has_its_answer_and_is_in_one_split(script: dict[str, Any], sources: Path) -> None:
    script["make"]("arith", sources, sources, 0)
    splits = {split: rows(sources / "arith" / f"{split}.jsonl") for split in ("train", "val", "test")}
    assert [len(splits[split]) for split in ("val", "test")] == [200, 400]
    everything = [row for split in splits.values() for row in split]
    assert len({row["query"] for row in everything}) == len(everything) == 90 * 90 + 90 * 91 // 2
    for row in everything:
        left, operation, right = re.findall(r"\d+|plus|minus", row["query"])
        answer = int(left) + int(right) * {"plus": 1, "minus": -1}[operation]
        assert row["choices"][row["gold"]] == str(answer)
        assert len(set(row["choices"])) == 4


def test_a_seed_gives_the_same_files(script: dict[str, Any], sources: Path) -> None:
    made = []
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        script["make"]("arith", sources, sources / out, seed)
        made.append((sources / out / "arith" / "train.jsonl").read_bytes())
    assert made[0] == made[1] != made[2]


def test_labels_are_those_of_the_source(script: dict[str, Any], sources: Path) -> None:
    for skill in ("clinc", "sst2"):
        script["make"](skill, sources, sources, 0)
    assert len(rows(sources / "clinc" / "val.jsonl")) == 3
    assert all(row["choices"][row["gold"]] == "home" for row in rows(sources / "clinc" / "test.jsonl"))
    for row in rows(sources / "sst2" / "test.jsonl"):
        assert row["choices"][row["gold"]] == ("positive" if "good" in row["query"] else "negative")


def test_training_has_no_query_of_the_other_splits(script: dict[str, Any], sources: Path) -> None:
    """Nor one that differs from it in case and punctuation only; requests of other domains are left out."""
    script["make"]("clinc", sources, sources, 0)
    assert [row["query"] for row in rows(sources / "clinc" / "train.jsonl")] == ["Request: dim the lamp\nDepartment:"]


def test_a_test_file_that_is_there_is_kept(script: dict[str, Any], sources: Path) -> None:
    path = sources / "arith" / "test.jsonl"
    path.parent.mkdir()
    row = {"query": "Question: What is 10 plus 10?\nAnswer:", "choices": ["20", "30"], "gold": 0}
    path.write_text(json.dumps(row) + "\n")
    script["make"]("arith", sources, sources, 0)
    assert rows(path) == [row]
    assert row["query"] not in {found["query"] for found in rows(sources / "arith" / "train.jsonl")}


def test_a_missing_clone_is_named(script: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(script["DataError"], match=r"cannot read .*oos-eval.*clone the repositories"):
        script["make"]("clinc", tmp_path, tmp_path, 0)
