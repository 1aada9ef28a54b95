"""What generated answers are worth is counted exactly, beside grades that stay what they were."""

from typing import Any

import pytest

from evomerge.scoring.answers import add_counts, significantly_more
from evomerge.scoring.engine.generation import Generator
from evomerge.scoring.protocol import Answer


def spec(choice: Any, *steps: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return choice(
        output_type="generate_until",
        doc_to_choice=None,
        doc_to_target="{{choices[gold]}}",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 4},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        filter_list=[{"name": "f", "filter": [*steps, {"function": "take_first"}]}],
        **changes,
    )


NUMBER = {"function": "regex", "regex_pattern": r"(\d+)"}
SAID = [
    Answer("so 12"),
    Answer("none", truncated=True),
    Answer(" "),
    Answer("[invalid] 7"),
    Answer("0", truncated=True),
]


def test_answers_are_counted_by_what_is_wrong_with_them(choice, freeze) -> None:
    scorer = freeze({"name": "mc", "spec": spec(choice, NUMBER)}, chunk_items=5)
    chunk = scorer.plan.chunks["search"][0]
    assert scorer.answers(chunk, SAID) == {"answers": 5, "truncated": 2, "empty": 1, "unparsable": 2}


@pytest.mark.parametrize("fallback", ["0", "12", "[invalid]"])
def test_a_fallback_that_models_say_too_is_told_apart(choice, freeze, fallback) -> None:
    steps = (
        {"function": "lowercase"},
        {**NUMBER, "fallback": fallback},
        {"function": "map", "mapping_dict": {"0": "z"}},
    )
    scorer = freeze({"name": "mc", "spec": spec(choice, *steps)}, chunk_items=5)
    assert scorer.answers(scorer.plan.chunks["search"][0], SAID)["unparsable"] == 2


def test_grades_are_those_of_the_texts(choice, freeze) -> None:
    scorer = freeze({"name": "mc", "spec": spec(choice, NUMBER)}, chunk_items=5)
    chunk = scorer.plan.chunks["search"][0]
    before = scorer.grade(chunk, SAID)
    assert before == scorer.grade(chunk, [answer.text for answer in SAID])
    scorer.answers(chunk, SAID)
    assert scorer.grade(chunk, SAID) == before


def test_repeats_count_one_by_one(choice, freeze) -> None:
    scorer = freeze({"name": "mc", "spec": spec(choice, NUMBER, repeats=2)}, chunk_items=5)
    chunk = scorer.plan.chunks["search"][0]
    counts = scorer.answers(chunk, [[answer, Answer("3")] for answer in SAID])
    assert counts == {"answers": 10, "truncated": 2, "empty": 1, "unparsable": 2}


def test_log_likelihoods_are_no_answers(choice, freeze) -> None:
    scorer = freeze({"name": "mc", "spec": choice()}, chunk_items=5)
    chunk = scorer.plan.chunks["search"][0]
    assert scorer.answers(chunk, [(-1.0, True)] * len(scorer.requests(chunk))) == {}


def test_the_engines_answers_are_counted_and_graded(choice, freeze, model, tokenizer) -> None:
    scorer = freeze({"name": "mc", "spec": spec(choice, NUMBER)}, chunk_items=20)
    chunk = scorer.plan.chunks["search"][0]
    said = Generator(model, tokenizer).answer(scorer.requests(chunk))
    counts = scorer.answers(chunk, said)
    assert counts["answers"] == 20 and 0 < counts["unparsable"] < 20
    assert counts["truncated"] == sum(answer.truncated for answer in said)
    assert set(scorer.grade(chunk, said)) == set(chunk.items)


def counts(answers: int, truncated: int) -> dict[str, int]:
    return {"answers": answers, "truncated": truncated, "empty": 0, "unparsable": 0}


def test_counts_add_up() -> None:
    assert add_counts([counts(5, 1), counts(7, 0)]) == counts(12, 1)
    assert add_counts([]) == {}


@pytest.mark.parametrize(
    ("theirs", "ours", "clearly"),
    [
        (counts(100, 30), counts(100, 5), True),
        (counts(100, 5), counts(100, 30), False),
        (counts(10, 3), counts(10, 1), False),  # as likely chance
        (counts(10000, 500), counts(10000, 300), False),  # sure, but small
        (counts(50, 0), counts(50, 0), False),
    ],
)
def test_clearly_more_is_neither_chance_nor_a_trifle(theirs, ours, clearly) -> None:
    assert significantly_more(theirs, ours, "truncated") is clearly
