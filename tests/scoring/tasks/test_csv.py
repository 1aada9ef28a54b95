"""CSV files with four-choice questions as a new user writes them."""

from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import TaskError

ROWS = 48
LETTERS = "abcd"
ACC = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]


def questions(count: int = ROWS) -> list[dict[str, str]]:
    """Sums with quotes, commas and line breaks in the question, and numbers among the choices."""
    rows = []
    for i in range(count):
        choices = [f"{i + 7}", f"{i}.50", f"00{i}", "NA"]
        choices[(i + 1) % 4] = f"{2 * i}"
        question = f'What, in "all",\nis {i} + {i}?'
        rows.append({"question": question, **dict(zip(LETTERS, choices, strict=True)), "answer": LETTERS[(i + 1) % 4]})
    return rows


def as_csv(rows: list[dict[str, str]], separator: str = ",", bom: bool = False, end: str = "") -> bytes:
    def cell(text: str) -> str:
        return f'"{text.replace(chr(34), chr(34) * 2)}"' if set(text) & {'"', separator, "\n"} else text

    lines = [separator.join(rows[0]), *(separator.join(map(cell, row.values())) for row in rows)]
    return ("\n".join(lines) + "\n" + end).encode("utf-8-sig" if bom else "utf-8")


@pytest.fixture
def table(tmp_path: Path) -> Any:
    """Write a CSV file; the answer is the entry of a task that reads it."""

    def table(content: bytes, **changes: Any) -> dict[str, Any]:
        (tmp_path / "questions.csv").write_bytes(content)
        data = {"data_files": {"test": str(tmp_path / "questions.csv")}, "cache_dir": str(tmp_path / "cache")}
        spec = {
            "dataset_path": "csv",
            "dataset_kwargs": data | changes.pop("data", {}),
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}\nAnswer:",
            "doc_to_choice": "{{[a, b, c, d]}}",
            "doc_to_target": "{{'abcd'.index(answer)}}",
            **changes,
        }
        return {"name": "mc", "spec": spec}

    return table


def rendered(scorer: Any) -> dict[int, tuple[str, list[str], int]]:
    """Row → prompt, choices and the number of the right choice."""
    found = {}
    for item in scorer.plan.items("search"):
        _, doc = scorer._docs[item]
        arguments = [instance.args for instance in doc.instances]
        loss = scorer.loss(item)
        found[int(item.rpartition("/")[2])] = (arguments[0][0], [text[1:] for _, text in arguments], loss.gold)
    return found


@pytest.mark.parametrize(
    ("spelling", "changes"),
    [
        ({}, {}),
        ({"bom": True}, {}),
        ({"separator": ";"}, {"data": {"sep": ";"}}),
        ({"separator": "\t"}, {"data": {"delimiter": "\t"}}),
        ({"end": "\n\n"}, {}),
    ],
    ids=["plain", "bom", "semicolons", "tabs", "empty lines"],
)
def test_every_cell_is_the_text_that_was_written(table, freeze, spelling, changes) -> None:
    rows = questions()
    found = rendered(freeze(table(as_csv(rows, **spelling), **changes)))
    assert len(found) == 20
    for row, (prompt, choices, gold) in found.items():
        assert prompt == f"{rows[row]['question']}\nAnswer:"
        assert choices == [rows[row][letter] for letter in LETTERS]
        assert gold == LETTERS.index(rows[row]["answer"])


ANSWERS = {
    "letter of fixed choices": (lambda row: row["answer"], {"doc_to_choice": list(LETTERS)}),
    "text of the choice": (lambda row: row[row["answer"]], {}),
    "number from 0": (lambda row: str(LETTERS.index(row["answer"])), {}),
    "number as index of fixed choices": (
        lambda row: str(LETTERS.index(row["answer"])),
        {"doc_to_choice": ["A", "B", "C", "D"]},
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_column_of_answers_is_a_target_without_a_template(name, table, freeze) -> None:
    write, changes = ANSWERS[name]
    rows = questions()
    gold = {number: LETTERS.index(row["answer"]) for number, row in enumerate(rows)}
    found = rendered(
        freeze(table(as_csv([{**row, "answer": write(row)} for row in rows]), doc_to_target="answer", **changes))
    )
    assert {row: right for row, (_, _, right) in found.items()} == {row: gold[row] for row in found}


def test_a_template_in_a_list_is_refused_with_the_form_that_works(table, freeze) -> None:
    with pytest.raises(TaskError) as caught:
        freeze(table(as_csv(questions()), doc_to_choice=["{{a}}", "{{b}}", "{{ c }}", "{{d}}"]))
    assert str(caught.value) == (
        "task 'mc': doc_to_choice holds {{a}}, which lm-eval does not render; give doc_to_choice: \"{{[a, b, c, d]}}\""
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"doc_to_choice": ["A) {{a}}", "B) {{b}}"]},
            "holds A) {{a}}, which lm-eval does not render; give one template",
        ),
        ({"doc_to_choice": {"A": "{{a}}", "B": "{{b}}"}}, "give one template of the whole list"),
        ({"doc_to_choice": ["{% if a %}yes{% endif %}", "no"]}, "doc_to_choice holds {% if a %}yes{% endif %}"),
        ({"target_delimiter": "{{a}}"}, "target_delimiter holds {{a}}"),
        (
            {"output_type": "generate_until", "doc_to_choice": None, "generation_kwargs": {"until": ["{{b}}"]}},
            "generation_kwargs.until holds {{b}}",
        ),
    ],
)
def test_a_template_is_refused_wherever_it_would_be_taken_literally(changes, message, table, freeze) -> None:
    with pytest.raises(TaskError) as caught:
        freeze(table(as_csv(questions()), **changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_braces_that_are_data_are_accepted(table, freeze) -> None:
    rows = [{**row, "question": f"{row['question']} {{{{a}}}} {{% raw %}}", "a": "{{b}}"} for row in questions()]
    choices = ["{{ name }}", "{% name %}", "{{{", "{ name }"]  # no column is called name
    for changes in ({}, {"doc_to_choice": choices}):
        found = rendered(freeze(table(as_csv(rows), **changes)))
        assert all("{{a}}" in prompt for prompt, *_ in found.values())


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (
            as_csv(questions()),
            {"doc_to_text": "{{quest}}"},
            "document 0, doc_to_text: UndefinedError: 'quest' is undef",
        ),
        (as_csv(questions()), {"doc_to_text": "{{quest}}"}, "its data has the columns question, a, b, c, d, answer"),
        (as_csv(questions(), ";"), {}, 'its data has a single column, question;a;b;c;d;answer; set sep: ";"'),
        (as_csv(questions(), "\t"), {}, 'set sep: "\\t" in its dataset_kwargs'),
        (as_csv([{**row, "answer": "abcde"[i // 10]} for i, row in enumerate(questions())]), {}, "document 40, doc_to"),
        (as_csv([{**row, "a": ""} for row in questions()]), {}, "document 0, doc_to_choice: a choice is empty"),
        (
            as_csv([{**row, "answer": "1234"[i % 4]} for i, row in enumerate(questions())]),
            {"doc_to_target": "answer"},
            "from 1",
        ),
        (as_csv(questions()), {"doc_to_target": "answer"}, "'abcd'.index(COLUMN)"),
    ],
)
def test_what_is_wrong_names_the_document_and_the_field(content, changes, message, table, freeze) -> None:
    with pytest.raises(TaskError) as caught:
        freeze(table(content, **changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:divide by zero")  # in lm-eval's acc_norm
def test_a_missing_choice_is_a_warning_and_can_be_left_out(table, freeze, caplog) -> None:
    rows = [{**row, "d": "" if row["answer"] == "a" else row["d"]} for row in questions()]
    freeze(table(as_csv(rows), metric_list=ACC))
    assert "doc_to_choice: a choice is empty in 12 of 48 documents, as in mc/test/3; leave it out" in caplog.text
    caplog.clear()
    found = rendered(freeze(table(as_csv(rows), metric_list=ACC, doc_to_choice="{{[a, b, c, d] | select | list}}")))
    assert not caplog.text
    assert {len(choices) for _, choices, _ in found.values()} == {3, 4}


def test_some_targets_that_name_no_choice_are_a_warning(table, freeze, caplog) -> None:
    rows = [{**row, "answer": row[row["answer"]] if i != 30 else "none"} for i, row in enumerate(questions())]
    freeze(table(as_csv(rows), doc_to_target="answer"))
    assert "names none of the choices in 1 of 48 documents, as in mc/test/30: 'none'" in caplog.text
