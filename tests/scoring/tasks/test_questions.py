"""Files of a user's own questions: every usual spelling of columns and answers is known, mistakes name the row."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import ConfigError
from evomerge.scoring.tasks.own_task import file_spec
from evomerge.scoring.tasks.questions import kinds_of_rows, read_questions

ASKED = ('What is 7 plus 5, and "why"?', "Line one\nline two?")
CHOICES = (("10", "11", "12", "13"), ("red", "green", "blue", "a, b"))
GOLD = (2, 3)


def csv_text(answers: tuple[str, str], header: str = "question,a,b,c,d,answer", separator: str = ",") -> str:
    rows = [
        separator.join(_quoted(cell) for cell in (question, *choices, answer))
        for question, choices, answer in zip(ASKED, CHOICES, answers, strict=True)
    ]
    return "\n".join([header.replace(",", separator), *rows, ""])


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def read(tmp_path: Path, text: str, name: str = "mine.csv", encoding: str = "utf-8") -> list[tuple[str, Any, int]]:
    path = tmp_path / name
    path.write_text(text, encoding=encoding)
    return [(found.text, found.choices, found.gold) for found in read_questions(path)]


EXPECTED = list(zip(ASKED, CHOICES, GOLD, strict=True))


@pytest.mark.parametrize("answers", [("C", "D"), ("c", "d"), ("(C)", "D."), ("12", "a, b"), ("3", "4")])
def test_an_answer_is_a_letter_a_text_or_a_number(tmp_path: Path, answers: tuple[str, str]) -> None:
    assert read(tmp_path, csv_text(answers)) == EXPECTED


@pytest.mark.parametrize("answers", [("2", "3"), ("2.0", "3.0")])
def test_a_column_named_gold_counts_from_zero(tmp_path: Path, answers: tuple[str, str]) -> None:
    text = csv_text(answers, "query,option_a,option_b,option_c,option_d,gold").replace('"a, b"', '"gray"')
    assert [gold for *_, gold in read(tmp_path, text)] == [2, 3]


@pytest.mark.parametrize(
    "header",
    ["Question,A,B,C,D,Answer", "prompt,choice1,choice2,choice3,choice4,target", "input,1,2,3,4,correct_answer",
     "query,opa,opb,opc,opd,label", "text,ending0,ending1,ending2,ending3,solution"],
)  # fmt: skip
def test_columns_are_found_by_their_usual_names(tmp_path: Path, header: str) -> None:
    assert read(tmp_path, csv_text(("12", "a, b"), header)) == EXPECTED


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_separators_byte_order_marks_and_empty_lines(tmp_path: Path, separator: str, encoding: str) -> None:
    text = csv_text(("C", "D"), separator=separator) + "\n\n"
    assert read(tmp_path, text, encoding=encoding) == EXPECTED
    assert read(tmp_path, text.replace("\n", "\r\n"), encoding=encoding)[0] == EXPECTED[0]


def test_numbers_stay_as_they_are_written(tmp_path: Path) -> None:
    (found,) = read(tmp_path, "question,a,b,answer\n007?,1.50,NA,NA\n")
    assert found == ("007?", ("1.50", "NA"), 1)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q?", "choices": ["x", "y"], "answer": 1, "label": 1},
        {"question": "q?", "choices": ["x", "y"], "gold": 1},
        {"question": "q?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
        {"question": "q?", "options": {"A": "x", "B": "y"}, "answer": "B"},
        {"question": "q?", "answer_choices": "['x', 'y']", "target": "y"},
    ],
)
def test_lists_of_choices(tmp_path: Path, row: dict[str, Any]) -> None:
    if "label" in row:  # a number of an `answer` column needs a second row to tell 0 from 1
        row.pop("answer")
    assert read(tmp_path, json.dumps(row) + "\n", "mine.jsonl") == [("q?", ("x", "y"), 1)]
    assert read(tmp_path, json.dumps([row]), "mine.json") == [("q?", ("x", "y"), 1)]


def test_an_empty_cell_counts_where_answers_are_numbers(tmp_path: Path) -> None:
    text = "question,a,b,c,d,answer\nq,A1,,C1,D1,3\nr,A2,B2,C2,D2,4\ns,x,y,z,w,1\n"
    found = read(tmp_path, text)
    assert [choices[gold] for _, choices, gold in found] == ["C1", "D2", "x"]


@pytest.mark.parametrize("header", ["Question,A),B),Correct Answer", "question,choice01,choice02,right-answer"])
def test_headers_are_read_without_marks_and_zeros(tmp_path: Path, header: str) -> None:
    assert read(tmp_path, f"{header}\nq?,x,y,B\n") == [("q?", ("x", "y"), 1)]


def test_letters_without_known_choices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no columns of choices are known; it has first, second; name them a, b"):
        read(tmp_path, "question,first,second,answer\nq,x,y,B\n")


def test_repeated_rows_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = read(tmp_path, "question,a,b,answer\nq,x,y,A\nr,x,y,B\nq,x,y,A\nq,x,y,B\n")
    assert [text for text, *_ in found] == ["q", "r"] and "2 rows ask the same as an earlier row" in caplog.text


def test_columns_that_the_first_row_lacks(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "answer": "x", "choices": ["x", "y"]},
        {"context": "c", "question": "r", "answer": "y", "choices": ["x", "y"]},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, reversed(rows))) + "\n" + json.dumps(rows[0] | {"question": "s"}))
    assert [found.context for found in read_questions(path)] == ["c", "", ""]


def test_the_columns_of_alpaca(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"instruction": "Translate.", "input": "cat", "output": ["chat", "le chat"]}))
    (found,) = read_questions(path)
    assert (found.context, found.text, found.answer) == ("Translate.", "cat", "chat")


def test_more_choices_than_letters(tmp_path: Path) -> None:
    cells = ",".join(f"c{i}" for i in range(30))
    header = ",".join(f"choice{i}" for i in range(30))
    assert read(tmp_path, f"question,{header},answer\nq,{cells},c29\n")[0][2] == 29


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        (" Paris", "paris", 1),
        ("Paris.", "Paris", 1),
        ("-5", "5", 0),
        ("1.5", "15", 0),
        ("the  cat", "The cat", 1),
        ("?", "!", 0),
    ],
)
def test_words_are_compared_without_case_spaces_and_outer_punctuation(
    tmp_path: Path, answer: str, reference: str, right: int
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("question,answer\nWho?,me\n")
    assert file_spec(path)["process_results"]({"answer": reference}, [answer]) == {"exact_match": right}


def test_rows_may_have_fewer_choices_and_a_context(tmp_path: Path) -> None:
    text = "context,question,a,b,c,answer\nOnce.,who?,x,y,,B\n,why?,x,y,z,C\n"
    assert [(len(choices), gold) for _, choices, gold in read(tmp_path, text)] == [(2, 1), (3, 2)]
    assert [found.context for found in read_questions(tmp_path / "mine.csv")] == ["Once.", ""]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rows"),
        ("question,answer\n", "no rows"),
        ("frage,antwort\nx,y\n", "no column for the question; it has frage, antwort, and needs question, query"),
        ("question,a,b\nx,y,z\n", "no column for the answer; it has question, a, b, and needs answer"),
        ("question,a,b,answer\nq,x,y,A\nr,x,y,E\n", "row 2: answer 'E' names none of its choices (x, y)"),
        ("question,a,b,answer\nq,x,y,A\nr,x,,A\n", "row 2 has no list of two or more choices in a, b"),
        ("question,a,b,answer\nq,x,x,A\n", "row 1 has two equal choices"),
        ("question,a,b,answer\n,x,y,A\n", "row 1 has no question"),
        ("question,answer\nq,\n", "row 1 has no answer"),
        ("question,a,b,c,answer\nq,x,y,z,1\nr,x,y,z,2\n", "cannot be told whether the first choice is 0 or 1"),
        ("question,answer\nq,x,y\n", "line 2 has 3 cells, the header 2; put text that holds ','"),
        ('question,answer\nq,"x\n', "check its double quotes"),
        ("question,question,answer\nq,r,x\n", "two columns are named 'question'"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert said in str(error.value) and "mine.csv" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("mine.jsonl", '{"question": "q"', "line 1 is not JSON"),
        ("mine.jsonl", "[1]\n", "line 1 is not an object"),
        ("mine.json", '{"question": "q"}\n{"question": "r"}', "a file of JSON lines is named .jsonl"),
        ("mine.json", "{}", "not a list of questions"),
        ("mine.xlsx", "", "is one of .csv, .tsv"),
    ],
)
def test_other_files(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match="mine"):
        read(tmp_path, text, name)
    with pytest.raises(ConfigError) as error:
        read_questions(tmp_path / name)
    assert said in str(error.value)


def test_a_file_that_is_not_there_or_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothere.csv: No such file"):
        file_spec(tmp_path / "nothere.csv")
    with pytest.raises(ConfigError, match=r"not UTF-8 at byte 16"):
        read(tmp_path, "question,answer\né?,x\n", encoding="latin-1")


def docs(path: Path) -> list[dict[str, Any]]:
    return list(file_spec(path)["custom_dataset"]()["test"])


def test_sentences_become_questions_and_prompts_stay(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("question,a,b,answer\nWho?,x,y,A\nWhy?,x,y,B\n")
    assert docs(path)[0]["prompt"] == "Question: Who?\nAnswer:"
    path.write_text("question,a,b,answer\nIs it good or bad? a thin film,x,y,A\n")
    assert docs(path)[0]["question"] == "Is it good or bad? a thin film" and docs(path)[0]["context"] == ""
    assert docs(path)[0]["prompt"] == "Question: Is it good or bad? a thin film\nAnswer:"
    path.write_text("context,question,a,b,answer\nOnce.,Topic:,x,y,A\n,It rained because,x,y,B\n")
    assert [doc["prompt"] for doc in docs(path)] == ["Once.\nTopic:", "It rained because"]


def test_short_answers_are_compared_word_for_word_and_long_ones_by_rouge(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("question,answer\nWho?,the cat\nWhat?,a dog\n")
    short = file_spec(path)
    assert short["metric_list"][0]["metric"] == "exact_match" and short["generation_kwargs"]["until"] == ["\n"]
    path.write_text(f"question,answer\nWho?,{'the cat sat ' * 5}\n")
    long = file_spec(path)
    assert long["metric_list"][0]["metric"] == "rougeL"
    value = long["process_results"]({"answer": "the cat sat on the mat"}, ["the cat on a mat"])["rougeL"]
    precision, recall = 4 / 5, 4 / 6  # the longest common subsequence is: the cat on mat
    assert value == pytest.approx(2 * precision * recall / (precision + recall))


KIT = "id,input,target,answer_choices,eval_type\n"
CHOICE_ROW = '0,"Who? ""x""\nA. I\nB. You",1,"[\'A\', ""It\'s, you""]",multiple_choice\n'
TEXT_ROW = "0,Long story. A summary is,Short story.,None,generation\n"


def kit_file(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "kit.csv"
    path.write_text(KIT + "".join(rows))
    return path


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("multiple_choice", ('Who? "x"\nA. I\nB. You', ("A", "It's, you"), 1)),
        ("generation", ("Long story. A summary is", (), -1)),
    ],
)
def test_rows_of_one_kind_are_read_from_a_file_of_both(tmp_path: Path, kind: str, expected: tuple[Any, ...]) -> None:
    path = kit_file(tmp_path, CHOICE_ROW, TEXT_ROW)
    (found,) = read_questions(path, kind)
    assert (found.text, found.choices, found.gold) == expected
    assert kinds_of_rows(path) == ["multiple_choice", "generation"]


def test_a_prompt_of_the_competition_is_given_as_it_is(tmp_path: Path) -> None:
    path = kit_file(tmp_path, CHOICE_ROW, TEXT_ROW)
    (doc,) = file_spec(path, "multiple_choice")["custom_dataset"]()["test"]
    assert doc["prompt"] == 'Who? "x"\nA. I\nB. You'
    assert file_spec(path, "generation")["generation_kwargs"] == {"until": [], "do_sample": False, "max_gen_toks": 64}


def test_outer_white_space_of_a_prompt_of_the_competition_stays(tmp_path: Path) -> None:
    path = kit_file(tmp_path, TEXT_ROW.replace("Long story.", " Long story.").replace("is,Short", "is ,Short"))
    assert [found.text for found in read_questions(path)] == [" Long story. A summary is "]
    (doc,) = file_spec(path)["custom_dataset"]()["test"]
    assert doc["prompt"] == " Long story. A summary is "


def test_numbers_of_the_competition_count_from_zero(tmp_path: Path) -> None:
    rows = [f"{n},Question {n}?,1,\"['1', '2', '3']\",multiple_choice\n" for n in range(3)]
    assert [found.gold for found in read_questions(kit_file(tmp_path, *rows))] == [1, 1, 1]


@pytest.mark.parametrize(
    ("rows", "kind", "said"),
    [
        ((CHOICE_ROW, TEXT_ROW), None, "two kinds; make two tasks of it, with rows=multiple_choice"),
        ((TEXT_ROW,), "multiple_choice", "no row has eval_type=multiple_choice; its rows have generation"),
        ((TEXT_ROW.replace("generation", "chat"),), None, "row 1: eval_type is 'chat'; give multiple_choice or"),
        ((TEXT_ROW, "1,Q?,0,None,multiple_choice\n"), "multiple_choice", "row 2 has no list of two or more choices"),
        ((TEXT_ROW, "1,Q?,4,\"['A', 'B']\",multiple_choice\n"), "multiple_choice", "row 2: target '4' names none"),
        ((TEXT_ROW, "1,Q?,2,\"['A', 'B']\",multiple_choice\n"), "multiple_choice", "row 2: target '2' names none"),
    ],
)
def test_a_wrong_row_of_the_competition_is_named(
    tmp_path: Path, rows: tuple[str, ...], kind: str | None, said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_questions(kit_file(tmp_path, *rows), kind)


def test_other_files_have_no_kinds(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(csv_text(("C", "D")))
    assert kinds_of_rows(path) == []
    with pytest.raises(ConfigError, match="rows=generation: it has no column eval_type; drop rows"):
        read_questions(path, "generation")


def test_numbers_of_json_stay_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "q?", "choices": [1.50, 1E3, 12345678901234567890.123], "answer": 1E3}\n')
    (question,) = read_questions(path)
    assert question.choices == ("1.50", "1E3", "12345678901234567890.123") and question.answer == "1E3"
