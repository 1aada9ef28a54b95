"""One item of a task in lines for a person: what a model reads, and what would be right."""

from typing import Any

import pytest

ROWS = [
    {"q": f"Is {i} even? ", "text": f"Number {i}\nends.", "yes": ["no", "yes"], "gold": (i + 1) % 2} for i in range(40)
]


@pytest.fixture
def shown(choice, freeze) -> Any:
    """The lines of item mc/validation/ROW of a spec, from the scorer with these options."""

    def shown(changes: dict[str, Any], **options: Any) -> list[str]:
        spec = choice(rows={"validation": ROWS}, **{"doc_to_choice": "yes", **changes})
        scorer = freeze({"name": "mc", "spec": spec, "search": [7]}, **options)
        return scorer.show_item("mc/validation/7")

    return shown


def test_a_choice_task_shows_the_right_choice_and_spaces_at_an_end(shown) -> None:
    assert shown({"doc_to_text": "{{q}}"}) == [
        "mc/validation/7, scored by acc of multiple_choice",
        "prompt    │Is 7 even?·",
        'choice 0  " no"   ← right',
        'choice 1  " yes"',
    ]


def test_shots_and_chat_template_are_part_of_the_prompt(shown) -> None:
    options = {"apply_chat_template": True, "fewshot_as_multiturn": True, "num_fewshot": 2}
    lines = shown({"doc_to_text": "{{q}}", "fewshot_split": "validation"}, **options)
    prompt = next(line for line in lines if line.startswith("prompt"))
    assert prompt.count("[user]") == 3 and prompt.count("[assistant]") == 3 and prompt.endswith("[assistant]")
    assert 'choice 0  "no"   ← right' in lines


def test_a_generation_task_shows_its_stop_strings_and_target(shown) -> None:
    changes = {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}\nNext:",
        "doc_to_target": "{{gold}}",
        "generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 5},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    lines = shown(changes)
    assert lines[:5] == [
        "mc/validation/7, scored by exact_match of generate_until",
        "prompt    │Number 7",
        "          │ends.",
        "          │Next:",
        'stops at  "\\n", "."',
    ]
    assert lines[5].startswith("generate  ") and "max_gen_toks=5" in lines[5]
    assert lines[6].startswith("target    ")


def test_a_log_likelihood_task_shows_its_continuation(shown) -> None:
    changes = {"output_type": "loglikelihood", "doc_to_text": "{{q}}", "doc_to_target": "{{text}}"}
    metric = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
    lines = shown({**changes, "metric_list": [metric]})
    assert lines[1:] == ["prompt    │Is 7 even?·", 'target    "Number 7\\nends."']


def test_contexts_that_differ_are_the_choices(shown) -> None:
    lines = shown({"doc_to_text": "{{gold}}", "doc_to_target": "{{text}}", "doc_to_choice": "yes"})
    assert [line for line in lines if line.startswith("choice")] == [
        'choice 0  "no| Number 7\\nends."   ← right',
        'choice 1  "yes| Number 7\\nends."',
    ]


def test_long_texts_are_shortened_in_the_middle(shown) -> None:
    lines = shown({"doc_to_text": "start {{q}} " + "x" * 5000 + " end"})
    assert lines[1].startswith("prompt    │start Is 7") and lines[1].endswith("x end") and len(lines[1]) < 1300
    assert "[…3822 characters…]" in lines[1]
