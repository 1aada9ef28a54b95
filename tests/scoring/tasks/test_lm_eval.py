"""The scorer's own promises: independent and disjoint slices, fixed requests, grading without memory."""

import pickle
import random
from typing import Any

import numpy as np
import pytest

from evomerge.errors import TaskError
from evomerge.scoring.protocol import SLICES


def test_a_task_draws_the_same_whatever_stands_beside_it(choice, freeze, sums) -> None:
    one = {"name": "one", "spec": choice("one")}
    two = {"name": "two", "spec": choice("two", {"test": sums(50, start=500)}), "weight": 3}
    alone, both = freeze(one), freeze(two, one)
    for name in ("search", "select", "holdout"):
        mine = {item for item in both.plan.items(name) if item.startswith("one/")}
        assert mine == set(alone.plan.items(name))
    assert set(alone.plan.items("search")) != set(freeze(one, seed=1).plan.items("search"))
    assert both.plan.weights == {"two": 3.0, "one": 1.0}
    assert both.plan.score({"one/validation/1": 1.0, "two/test/1": 0.0, "two/test/2": 1.0}) == 0.625


def test_every_chunk_has_its_share_of_every_task(choice, freeze, sums) -> None:
    one = {"name": "one", "spec": choice("one"), "search": 24}
    two = {"name": "two", "spec": choice("two", {"test": sums(50, start=500)}), "search": 8}
    chunks = freeze(one, two, chunk_items=8).plan.chunks["search"]
    assert [[sum(i.startswith(t) for i in c.items) for t in ("one", "two")] for c in chunks] == [[6, 2]] * 4


def test_splits_send_slices_to_other_data(choice, freeze, sums) -> None:
    rows = {"test": sums(40), "validation": sums(40, start=100)}
    splits = {"search": "validation", "select": "validation"}
    scorer = freeze({"name": "mc", "spec": choice(rows=rows), "splits": splits, "holdout": "all"})
    prefixes = [{item.rpartition("/")[0] for item in scorer.plan.items(s)} for s in ("search", "select", "holdout")]
    assert prefixes == [{"mc/validation"}, {"mc/validation"}, {"mc/test"}]
    request = scorer.requests(scorer.plan.chunks["search"][0])[0]
    assert int(request.arguments[0].partition("+")[0]) >= 100


def test_a_document_is_never_its_own_example(choice, freeze, sums) -> None:
    rows = {"test": sums(30, start=100), "validation": sums(6)}
    spec = choice(rows=rows, validation_split="validation")
    sizes = {"search": 3, "select": 3, "holdout": 5}
    splits = {"search": "validation", "select": "validation"}
    scorer = freeze({"name": "mc", "spec": spec, "splits": splits, **sizes}, num_fewshot=4)
    for chunk in (*scorer.plan.chunks["search"], *scorer.plan.chunks["select"]):
        for request in scorer.requests(chunk):
            *examples, question = request.arguments[0].split("\n\n")
            assert len(examples) == 4 and not any(example.startswith(question) for example in examples)


@pytest.mark.parametrize("shots", [0, 2])
def test_of_equal_documents_one_is_drawn(choice, freeze, sums, shots) -> None:
    rows = {"test": sums(20) * 3, "train": sums(20, start=100)}
    spec = choice(rows=rows, fewshot_split="train")
    scorer = freeze({"name": "mc", "spec": spec}, num_fewshot=shots, slices=dict.fromkeys(SLICES, 6))
    asked = [int(item.rpartition("/")[2]) % 20 for name in SLICES for item in scorer.plan.items(name)]
    assert len(asked) == len(set(asked)) == 18


def test_equal_documents_of_two_tasks_are_refused_across_slices(choice, freeze) -> None:
    one, two = ({"name": name, "spec": choice(name)} for name in ("one", "two"))
    with pytest.raises(TaskError, match=r"one/validation/\d+ in \w+ and two/validation/\d+ in \w+ ask the same"):
        freeze(one, two)


def test_grading_keeps_no_state(choice, freeze, engine) -> None:
    scorer = freeze({"name": "mc", "spec": choice()}, chunk_items=5)
    chunks = scorer.plan.chunks["search"]
    answers = [engine.respond(scorer.requests(chunk)) for chunk in chunks]
    first = [scorer.grade(chunk, answer) for chunk, answer in zip(chunks, answers, strict=True)]
    again = [scorer.grade(chunks[i], answers[i]) for i in (3, 0, 2, 1, 1)]
    assert again == [first[i] for i in (3, 0, 2, 1, 1)]
    wrong = [(-value, greedy) for value, greedy in answers[0]]
    assert scorer.grade(chunks[0], wrong) != first[0]
    assert scorer.grade(chunks[0], answers[0]) == first[0]
    assert list(first[0]) == list(chunks[0].items)


def test_a_short_answer_list_is_a_mistake_of_the_caller(choice, freeze) -> None:
    scorer = freeze({"name": "mc", "spec": choice()})
    with pytest.raises(ValueError, match="search/0 has 30 requests, got 1"):
        scorer.grade(scorer.plan.chunks["search"][0], [(0.0, True)])


def test_requests_are_fixed_and_travel_without_documents(choice, freeze) -> None:
    scorer = freeze({"name": "mc", "spec": choice()})
    chunk = scorer.plan.chunks["search"][0]
    requests = scorer.requests(chunk)
    assert requests == scorer.requests(chunk) == pickle.loads(pickle.dumps(requests))
    assert b"lm_eval" not in pickle.dumps(requests) and b"gold" not in pickle.dumps(requests)
    assert {len(request.arguments) for request in requests} == {2}


def test_the_fingerprint_follows_data_and_prompts(choice, freeze, sums) -> None:
    entry = {"name": "mc", "spec": choice()}
    before = freeze(entry).fingerprint
    assert before == freeze(entry).fingerprint
    assert before != freeze({"name": "mc", "spec": choice(doc_to_text="Q {{q}}")}).fingerprint
    changed = [{**row, "gold": 0} for row in sums(60)]
    assert before != freeze({"name": "mc", "spec": choice("other", {"validation": changed})}).fingerprint


def test_freezing_is_silent_and_leaves_the_random_streams_alone(choice, freeze, capfd: Any) -> None:
    random.seed(5), np.random.seed(5)
    expected = random.random(), np.random.rand()
    random.seed(5), np.random.seed(5)
    freeze({"name": "mc", "spec": choice()})
    assert (random.random(), np.random.rand()) == expected
    assert capfd.readouterr() == ("", "")


def test_a_template_without_a_system_turn_gets_none(choice, freeze, tokenizer) -> None:
    strict = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    strict.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    options = {"tokenizer": strict, "apply_chat_template": True, "system_instruction": "Be brief."}
    scorer = freeze({"name": "mc", "spec": choice()}, **options)
    prompt = scorer.requests(scorer.plan.chunks["search"][0])[0].arguments[0]
    assert prompt.startswith("[user]") and "brief" not in prompt
