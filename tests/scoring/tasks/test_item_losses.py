"""The loss of an item is that of lm-eval's own right answer, whatever keys of the task say which it is."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from evomerge.scoring import ItemLoss
from evomerge.scoring.tasks.lm_eval_scorer import LMEvalScorer

Freeze = Callable[..., LMEvalScorer]
ROWS = [
    {"q": f"{i}?", "choices": ["no", f"yes {i}", "perhaps"], "gold": i % 3, "text": f"answer {i}"} for i in range(40)
]
GENERATE = {
    "output_type": "generate_until",
    "doc_to_choice": None,
    "generation_kwargs": {"until": ["\n"]},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


def losses(scorer: LMEvalScorer) -> dict[int, ItemLoss | None]:
    return {int(item.rpartition("/")[2]): scorer.loss(item) for item in scorer.plan.items("search")}


@pytest.mark.parametrize(
    ("changes", "gold"),
    [
        ({}, lambda i: i % 3),
        ({"doc_to_target": "{{choices[gold]}}"}, lambda i: i % 3),
        ({"doc_to_target": "{{(gold + 1) % 3}}"}, lambda i: (i + 1) % 3),
    ],
    ids=["an index", "a text", "a template"],
)
def test_the_right_choice(choice: Any, freeze: Freeze, changes: Mapping[str, Any], gold: Callable[[int], int]) -> None:
    found = losses(freeze({"name": "mc", "spec": choice(rows={"validation": ROWS}, **changes)}))
    assert len(found) == 20
    for row, loss in found.items():
        assert loss is not None and loss.gold == gold(row) and loss.lengths is None
        assert [request.arguments[1] for request in loss.requests] == [" no", f" yes {row}", " perhaps"]


def test_choices_are_divided_by_their_lengths_where_the_metric_does(choice: Any, freeze: Freeze) -> None:
    found = losses(freeze({"name": "mc", "spec": choice(rows={"validation": ROWS}), "metric": "acc_norm"}))
    for row, loss in found.items():
        assert loss is not None and loss.lengths == (2.0, float(len(f"yes {row}")), 7.0) and loss.gold == row % 3


def test_several_right_answers_count_as_the_first_and_none_as_no_loss(choice: Any, freeze: Freeze) -> None:
    rows = [{**row, "choices": ["same", "same", "other"], "gold": 1} for row in ROWS]
    found = losses(freeze({"name": "mc", "spec": choice(rows={"validation": rows})}))
    assert all(loss is not None and loss.gold == 1 for loss in found.values())


def test_a_generation_task_has_the_text_of_its_target(choice: Any, freeze: Freeze) -> None:
    spec = choice(rows={"validation": ROWS}, doc_to_target="text", **GENERATE)
    for row, loss in losses(freeze({"name": "gen", "spec": spec})).items():
        assert loss is not None and loss.gold is None
        (request,) = loss.requests
        assert request.kind == "loglikelihood" and request.arguments == (f"{row}?", f" answer {row}")


@pytest.mark.parametrize(
    ("changes", "delimiter"),
    [({}, " "), ({"target_delimiter": ""}, ""), ({"target_delimiter": "\n"}, "\n"), ({"gen_prefix": "It is"}, " ")],
    ids=["by default", "none", "a line", "after a prefix"],
)
@pytest.mark.parametrize("shots", [0, 1])
def test_a_target_follows_its_prompt_as_in_a_few_shot_example(
    choice: Any, freeze: Freeze, changes: Mapping[str, Any], delimiter: str, shots: int
) -> None:
    examples = [{**ROWS[0], "q": "first?", "text": "an example"}]
    more = {"num_fewshot": shots, "fewshot_config": {"sampler": "first_n", "samples": examples}} if shots else {}
    spec = choice(rows={"validation": ROWS}, doc_to_target="text", **GENERATE, **changes, **more)
    for row, loss in losses(freeze({"name": "gen", "spec": spec})).items():
        assert loss is not None
        context, answer = loss.requests[0].arguments
        assert answer == f"{delimiter}answer {row}"
        assert not shots or f"{delimiter}an example" in context


def test_a_target_of_a_conversation_is_a_turn_of_its_own(choice: Any, freeze: Freeze) -> None:
    spec = choice(rows={"validation": ROWS}, doc_to_target="text", **GENERATE)
    for row, loss in losses(freeze({"name": "gen", "spec": spec}, apply_chat_template=True)).items():
        assert loss is not None and loss.requests[0].arguments == (f"[user]{row}?;[assistant]", f"answer {row}")


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        ({"doc_to_target": "gold"}, lambda i: str(i % 3)),
        ({"doc_to_target": 0}, None),
        ({"doc_to_target": "gold", "doc_to_choice": "choices"}, lambda i: ROWS[i]["choices"][i % 3]),
        ({"doc_to_target": "texts"}, lambda i: f"answer {i}"),
    ],
    ids=["a column of numbers", "a placeholder", "a choice", "several"],
)
def test_a_target_that_is_no_text(
    choice: Any, freeze: Freeze, changes: Mapping[str, Any], target: Callable[[int], str] | None
) -> None:
    rows = [{**row, "texts": [row["text"], "else"]} for row in ROWS]
    spec = choice(rows={"validation": rows}, **{**GENERATE, **changes})
    for row, loss in losses(freeze({"name": "gen", "spec": spec})).items():
        assert (None if loss is None else loss.requests[0].arguments[1]) == (target and f" {target(row)}")


@pytest.mark.parametrize("target", ["", "   "])
def test_a_target_of_no_text_is_no_loss(choice: Any, freeze: Freeze, target: str) -> None:
    rows = [{**row, "text": target} for row in ROWS]
    rows = [{**row, "q": f"{place}?"} for place, row in enumerate(rows)]
    spec = choice(rows={"validation": rows}, doc_to_target="text", **GENERATE)
    assert set(losses(freeze({"name": "gen", "spec": spec})).values()) == {None}


def test_a_log_likelihood_task_has_its_own_requests_unless_they_have_no_text(choice: Any, freeze: Freeze) -> None:
    rows = [{**row, "text": row["text"] if row["gold"] else ""} for row in ROWS]
    spec = choice(
        rows={"validation": rows},
        doc_to_target="text",
        doc_to_choice=None,
        output_type="loglikelihood",
        metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    )
    for row, loss in losses(freeze({"name": "ll", "spec": spec})).items():
        if row % 3 == 0:
            assert loss is None
            continue
        assert loss is not None and loss.gold is None
        assert loss.requests[0].arguments == (f"{row}?", f"answer {row}")


def test_the_chance_of_a_guess(choice: Any, freeze: Freeze) -> None:
    def chances(**changes: Any) -> set[float]:
        return set(
            freeze({"name": "mc", "spec": choice(rows={"validation": ROWS}, **changes)}).chances("search").values()
        )

    information = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_mutual_info")
    ]
    contexts = {"doc_to_text": "{{gold}}", "doc_to_target": "{{text}}"}
    assert chances() == chances(metric_list=information) == chances(**contexts) == {1 / 3}
    assert chances(doc_to_choice=["no", "yes"], doc_to_target="{{gold % 2}}") == {0.5}
    assert chances(**GENERATE) == set()
