"""Files of inputs: read as the starter kit's pandas reads them, and refused with one line."""

from pathlib import Path

import pandas
import pytest

from evomerge.errors import ConfigError, TaskError
from evomerge.submission.config import SubmissionConfig, method_name
from evomerge.submission.csv_rows import Row, read_rows, write_predictions

HEADER = "id,input,answer_choices,eval_type\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "rows.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_are_what_pandas_makes_of_them(tmp_path: Path) -> None:
    text = HEADER + '7,"a ""b"",\nc","[\'A\', ""it\'s""]",multiple_choice\n9,NAN ,None,generation\n8,x,,generation\n'
    rows = read_rows(write(tmp_path, text))
    first = Row(7, 'a "b",\nc', ("A", "it's"), "['A', \"it's\"]")
    assert rows == [first, Row(9, "NAN "), Row(8, "x")]


def test_a_column_of_numbers_has_the_texts_that_the_kit_makes_of_them(tmp_path: Path) -> None:
    rows = read_rows(
        write(tmp_path, "id,input,answer_choices,eval_type,target\n1,007,,generation,1\n2,8.50,,generation,\n")
    )
    assert [(row.input, row.target) for row in rows] == [("7.0", "1.0"), ("8.5", None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,input,eval_type\n1,a,generation\n", "no column answer_choices; it needs"),
        (HEADER, "no rows"),
        ("", "not a CSV file"),
        (HEADER + "1,a,,rank\n", "row 1: eval_type is rank; give multiple_choice or generation"),
        (HEADER + "1,a,,\n", "row 1: eval_type is empty"),
        (HEADER + "1,a,,generation\n1,b,,generation\n", "row 2: has the id 1 of row 1"),
        (HEADER + ",a,,generation\n", "row 1: no id"),
        (HEADER + "1,a,,generation\n2,,,generation\n", "row 2: the input is empty"),
        (HEADER + '1,"  ",,generation\n', "row 1: the input is empty"),
        (HEADER + "1,a,None,multiple_choice\n", "row 1: no answer_choices"),
        (HEADER + '1,a,"A, B",multiple_choice\n', "answer_choices is 'A, B'; give a list of two or more texts"),
        (HEADER + "1,a,['A'],multiple_choice\n", "two or more texts"),
        (HEADER + '1,a,"[1, 2]",multiple_choice\n', "two or more texts"),
        (HEADER + "1,a,\"['A', '']\",multiple_choice\n", "two or more texts"),
        (HEADER + "1,a,\"('A', 'B')\",multiple_choice\n", "two or more texts"),
    ],
)
def test_a_file_that_cannot_be_predicted_is_refused_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(TaskError, match="^[^\n]+$") as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no such file"):
        read_rows(tmp_path / "none.csv")


def test_predictions_are_read_back_as_they_were(tmp_path: Path) -> None:
    texts = ['a "b"\nc', "", "1", "x, y"]
    rows = [Row(number, "a") for number in (3, 1, 2, 9)]
    write_predictions(tmp_path / "out.csv", rows, texts)
    found = pandas.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
    assert list(found.columns) == ["id", "prediction", "dummy_field"]
    assert found.values.tolist() == [[str(row.id), text, "0"] for row, text in zip(rows, texts, strict=True)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "LlamaAvg"},
        {"name": "llama_avg"},
        {"name": "a-b"},
        {"predict": "other"},
        {"max_gen_len": 0},
        {"max_seq_len": 0},
        {"inputs": (Path("a/test.csv"), Path("submission.csv"))},
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SubmissionConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("run", "name"), [("my-Run 2", "evomerge_my_run_2"), ("--", "evomerge_merge")])
def test_a_run_without_a_name_for_its_method_gets_one(run: str, name: str) -> None:
    assert SubmissionConfig(name=method_name(run)).name == name
