"""Scoring functions of the user's: what they get, what becomes of their values, and each mistake as one line."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.errors import CandidateError, ConfigError, TaskError
from evomerge.scoring.protocol import Answer

Write = Callable[[str], str]
GENERATION: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_choice": None,
    "doc_to_target": "{{choices[gold]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
    "metric_list": None,
}
NUMBER = [{"name": "f", "filter": [{"function": "regex", "regex_pattern": r"(\d+)"}, {"function": "take_first"}]}]


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write scores.py in the current directory; the answer is the name of its function `score`."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        Path("scores.py").write_text(text)
        return "scores.py:score"

    return write


@pytest.fixture
def generating(choice: Any) -> Callable[..., dict[str, Any]]:
    def generating(**changes: Any) -> dict[str, Any]:
        spec = choice(**{**GENERATION, **changes})
        return {key: value for key, value in spec.items() if value is not None}

    return generating


def said(scorer: Any, text: Callable[[int], str]) -> tuple[Any, list[Answer]]:
    chunk = scorer.plan.chunks["search"][0]
    return chunk, [Answer(text(place)) for place in range(len(chunk.items))]


CHOOSE = """
def score(items):
    best = [max(range(len(item.choices)), key=lambda i: item.loglikelihoods[i]) for item in items]
    return [choice == item.target for choice, item in zip(best, items)]
"""


LETTERS = {"doc_to_choice": ["A", "B", "C"], "doc_to_target": "{{'ABC'[gold]}}"}


@pytest.mark.parametrize("changes", [{}, LETTERS], ids=["number", "text"])
def test_from_log_likelihoods_it_is_the_accuracy_that_lm_eval_has(
    function: Write, choice: Any, freeze: Any, score: Any, changes: dict[str, Any]
) -> None:
    spec = choice(**changes)
    theirs = score(freeze({"name": "mc", "spec": spec, "metric": "acc"}), "search", "holdout")
    own = score(freeze({"name": "mc", "spec": spec, "score": function(CHOOSE)}), "search", "holdout")
    assert own == theirs and set(own.values()) == {0.0, 1.0}


def test_from_texts_by_hand(function: Write, generating: Any, freeze: Any, tokenizer: Any) -> None:
    name = function(
        "def score(items):\n"
        "    assert all(item.prompt == item.doc['q'] and item.target in item.doc['choices'] for item in items)\n"
        "    return [int(item.text == item.target) - 0.01 * item.tokens + len(item.raw_text) for item in items]\n"
    )
    scorer = freeze({"name": "mc", "spec": generating(), "score": name}, chunk_items=20)
    chunk, _ = said(scorer, str)
    targets = {
        item: scorer._docs[item][0].task.doc_to_target(scorer._docs[item][1].instances[0].doc) for item in chunk.items
    }
    answers = [Answer(targets[item] if place % 2 else "no") for place, item in enumerate(chunk.items)]
    lengths = [len(answer.text) for answer in answers]  # a token for each character
    wanted = [place % 2 - 0.01 * length + length for place, length in enumerate(lengths)]
    assert list(scorer.grade(chunk, answers).values()) == pytest.approx(wanted)
    assert list(scorer.lengths(chunk, answers).values()) == lengths
    assert scorer.plan.generating == ("mc",)


def test_the_filter_stays_lm_evals(function: Write, generating: Any, freeze: Any) -> None:
    name = function("def score(items):\n    return [float(i.text == '12') + 10 * len(i.raw_text) for i in items]\n")
    scorer = freeze({"name": "mc", "spec": generating(filter_list=NUMBER), "score": name}, chunk_items=20)
    chunk, answers = said(scorer, lambda place: f"so {12 + place % 2} ")
    assert list(scorer.grade(chunk, answers).values()) == [60.0 + (place % 2 == 0) for place in range(20)]


def test_several_answers_are_all_there(function: Write, generating: Any, freeze: Any) -> None:
    each = [{"name": "all", "filter": [{"function": "take_first_k", "k": 2}]}]
    name = function("def score(items):\n    return [sum(len(t) for t in i.texts) + i.tokens / 100 for i in items]\n")
    scorer = freeze({"name": "mc", "spec": generating(repeats=2, filter_list=each), "score": name}, chunk_items=20)
    chunk = scorer.plan.chunks["search"][0]
    grades = scorer.grade(chunk, [[Answer("a"), Answer("bcd")]] * 20)
    assert set(grades.values()) == {4.02}
    assert set(scorer.lengths(chunk, [[Answer("a"), Answer("bcd")]] * 20).values()) == {2.0}


def test_lower_is_better_is_negated(function: Write, generating: Any, freeze: Any) -> None:
    name = function("def score(items):\n    return [len(item.text) for item in items]\n")
    entry = {"name": "mc", "spec": generating(), "score": name, "higher_is_better": False}
    scorer = freeze(entry, chunk_items=20)
    chunk, answers = said(scorer, lambda place: "x" * place)
    assert list(scorer.grade(chunk, answers).values()) == [-float(place) for place in range(20)]


def test_the_metric_tokens_is_the_negated_length(generating: Any, freeze: Any, choice: Any) -> None:
    scorer = freeze({"name": "mc", "spec": generating(), "metric": "tokens"}, chunk_items=20)
    chunk, answers = said(scorer, lambda place: "x" * place)
    assert list(scorer.grade(chunk, answers).values()) == [-float(place) for place in range(20)]
    with pytest.raises(TaskError, match="task 'mc' generates no answers, so it has no metric 'tokens'"):
        freeze({"name": "mc", "spec": choice(), "metric": "tokens"})


def test_a_changed_document_changes_no_other_item(function: Write, generating: Any, freeze: Any) -> None:
    name = function("def score(items):\n    return [float(len(i.doc.pop('choices'))) for i in items]\n")
    scorer = freeze({"name": "mc", "spec": generating(), "score": name}, chunk_items=20)
    before = scorer.fingerprint
    chunk, answers = said(scorer, str)
    assert set(scorer.grade(chunk, answers).values()) == {3.0} == set(scorer.grade(chunk, answers).values())
    assert scorer.fingerprint == before


def test_a_module_of_the_current_directory_is_read_again(function: Write, generating: Any, freeze: Any) -> None:
    found = []
    for value in (1, 2):
        function(f"def score(items):\n    return [{value}.0 + 0 * {value}{value} for item in items]\n")
        scorer = freeze({"name": "mc", "spec": generating(), "score": "scores:score"}, chunk_items=20)
        found.append((set(scorer.grade(*said(scorer, str)).values()), scorer.functions["scores:score"]))
    assert [values for values, _ in found] == [{1.0}, {2.0}]
    assert found[0][1] != found[1][1]


def test_modules_beside_the_file_are_found(generating: Any, freeze: Any, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "beside_at_once.py").write_text("ONE = 1.0\n")
    (folder / "beside_later.py").write_text("TWO = 2.0\n")
    text = "from beside_at_once import ONE\ndef score(items):\n    from beside_later import TWO\n"
    (folder / "mine.py").write_text(f"{text}    return [ONE + TWO for item in items]\n")
    scorer = freeze({"name": "mc", "spec": generating(), "score": f"{folder}/mine.py:score"}, chunk_items=20)
    assert set(scorer.grade(*said(scorer, str)).values()) == {3.0}


def test_a_group_is_scored_task_by_task(function: Write, choice: Any, freeze: Any, tmp_path: Path, score: Any) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in ("one", "two"):
        rows = {"validation": [{"q": f"{name} {i}", "choices": ["a", "b", "c"], "gold": i % 3} for i in range(30)]}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(choice(name, rows, task=name)))
    (folder / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": ["one", "two"]}))
    own, theirs = (
        freeze({"name": "both", **entry}, include_path=str(folder))
        for entry in ({"score": function(CHOOSE)}, {"metric": "acc"})
    )
    assert score(own) == score(theirs)


BODY = "def score(items):\n    return {}\n"


@pytest.mark.parametrize(
    ("given", "text", "message"),
    [
        ("none.py:score", "", "no file none.py; give its path"),
        ("nowhere_to_be_found:score", "", "no module 'nowhere_to_be_found' in /"),
        ("scores.py:scores", BODY.format("[1]"), "has no function 'scores' (did you mean 'score'?)"),
        ("scores.py:score", "score = 3\n", "'score' is int, not a function"),
        ("scores.py:score", "def score(:\n", "cannot be imported with SyntaxError"),
        ("scores.py:score", "import nowhere_to_be_found\n", "ModuleNotFoundError: No module named"),
        ("scores.py:score", "\n1 / 0\n", "ZeroDivisionError: division by zero (scores.py:2)"),
        ("scores.py:score", BODY.format("[1.0]"), "returned 1 values for 8 items"),
        ("scores.py:score", BODY.format("None"), "returned None, not a list"),
        ("scores.py:score", BODY.format("'1' * len(items)"), "returned '11111111', not a list"),
        ("scores.py:score", BODY.format("['1' for item in items]"), "is '1', not a number"),
        ("scores.py:score", BODY.format("[None for item in items]"), "is None, not a number"),
        ("scores.py:score", BODY.format("[float('nan') for item in items]"), "is nan for the sample answer '0'"),
        ("scores.py:score", BODY.format("[1 / len(i.text) for i in items]"), "ZeroDivisionError"),
        ("scores.py:score", BODY.format("[i.txt for i in items]"), "has no attribute 'txt' (scores.py:2)"),
        (
            "scores.py:score",
            BODY.format("[i.loglikelihoods[0] for i in items]"),
            "no loglikelihoods: its task generates",
        ),
    ],
)
def test_each_mistake_is_one_line_before_a_model_is_read(
    function: Write, generating: Any, freeze: Any, given: str, text: str, message: str
) -> None:
    function(text)
    with pytest.raises(TaskError) as error:
        freeze({"name": "mc", "spec": generating(), "score": given})
    line = str(error.value)
    assert message in line.replace(f"{Path.cwd()}/", "") and "\n" not in line
    assert "score" in line or "scores.py" in line


def test_texts_of_a_choice_task_are_refused(function: Write, choice: Any, freeze: Any) -> None:
    name = function(BODY.format("[len(item.text) for item in items]"))
    with pytest.raises(TaskError, match="has no text: its task generates no answers; use loglikelihoods"):
        freeze({"name": "mc", "spec": choice(), "score": name})


def test_a_value_that_is_not_finite_fails_the_candidate(function: Write, generating: Any, freeze: Any) -> None:
    name = function("def score(items):\n    return [float('inf') if i.text == 'odd' else 1.0 for i in items]\n")
    scorer = freeze({"name": "mc", "spec": generating(), "score": name}, chunk_items=20)
    with pytest.raises(CandidateError, match="its score by scores.py:score is inf"):
        scorer.grade(*said(scorer, lambda place: "odd" if place == 3 else "even"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"score": "scores.py:score", "metric": "acc"}, "replaces the metric; drop metric=acc"),
        ({"higher_is_better": False}, "higher_is_better belongs to score or aggregate"),
        ({"score": "scores"}, "give a function, as in my_module:score"),
    ],
)
def test_keys_that_do_not_go_together(freeze: Any, choice: Any, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeze({"name": "mc", "spec": choice(), **entry})


PAIRS = """
def score(items):
    best = [max(range(3), key=lambda i: item.loglikelihoods[i]) for item in items]
    return [(choice, item.target) for choice, item in zip(best, items)]

def balanced(pairs):
    classes = sorted({target for _, target in pairs})
    hits = [[choice == target for choice, target in pairs if target == each] for each in classes]
    return sum(sum(hit) / len(hit) for hit in hits) / len(hits)
"""


def test_an_aggregate_of_the_users(function: Write, choice: Any, freeze: Any, score: Any) -> None:
    name = function(PAIRS)
    entry = {"name": "mc", "spec": choice(), "score": name, "aggregate": "scores.py:balanced"}
    scorer = freeze(entry)
    values = score(scorer)
    pairs = list(values.values())
    hits = {each: [choice == target for choice, target in pairs if target == each] for each in range(3)}
    assert all(isinstance(pair, list) for pair in pairs)
    wanted = sum(sum(hit) / len(hit) for hit in hits.values()) / 3
    assert scorer.plan.by_task(values) == {"mc": pytest.approx(wanted)}
    assert list(scorer.functions) == ["scores.py:balanced", "scores.py:score"]
    worse = freeze({**entry, "higher_is_better": False})
    assert worse.plan.by_task(score(worse)) == {"mc": pytest.approx(-wanted)}


@pytest.mark.parametrize("metric", ["f1", "mcc", "brier_score"])
def test_metrics_of_lm_evals_over_the_whole_corpus(metric: str, choice: Any, freeze: Any, score: Any) -> None:
    from sklearn import metrics

    listed = [{"metric": name} for name in (metric, "acc")]
    gold = "{{gold % 2}}"
    spec = choice(metric_list=listed, doc_to_target=gold, doc_to_choice="{{choices[:2]}}")
    scorer = freeze({"name": "mc", "spec": spec})
    values = score(scorer)
    golds, predicted = zip(*values.values(), strict=True)
    right = score(freeze({"name": "mc", "spec": spec, "metric": "acc"}))
    by_hand = {
        "f1": lambda: metrics.f1_score(golds, predicted),
        "mcc": lambda: metrics.matthews_corrcoef(golds, predicted),
        "brier_score": lambda: -2 * metrics.brier_score_loss(golds, [chances[1] for chances in predicted]),
    }
    assert scorer.plan.by_task(values) == {"mc": pytest.approx(by_hand[metric]())}
    if metric != "brier_score":
        assert [float(one == other) for one, other in zip(golds, predicted, strict=True)] == list(right.values())


def test_bleu_and_perplexity_come_from_the_ledgers_values(generating: Any, freeze: Any, choice: Any) -> None:
    import sacrebleu

    scorer = freeze({"name": "mc", "spec": generating(metric_list=[{"metric": "bleu"}])}, chunk_items=20)
    chunk, answers = said(scorer, lambda place: f"about {place} or so")
    values = scorer.grade(chunk, answers)
    references = [str(value[0]) for value in values.values()]
    wanted = sacrebleu.corpus_bleu([answer.text for answer in answers], [references]).score
    assert scorer.plan.by_task(values) == {"mc": pytest.approx(wanted)}

    rolling = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{q}} and more"}
    spec = choice(**rolling, metric_list=[{"metric": "word_perplexity"}])
    scorer = freeze({"name": "mc", "spec": {k: v for k, v in spec.items() if k != "doc_to_choice"}}, chunk_items=20)
    values = scorer.grade(scorer.plan.chunks["search"][0], [-float(place) for place in range(20)])
    assert scorer.plan.by_task(values) == {"mc": pytest.approx(-math.exp(sum(range(20)) / 60))}


def test_f1_of_three_classes_is_refused(choice: Any, freeze: Any) -> None:
    with pytest.raises(TaskError, match="metric 'f1' cannot be computed: ValueError: Target is multiclass") as error:
        freeze({"name": "mc", "spec": choice(metric_list=[{"metric": "f1"}])})
    assert "\n" not in str(error.value)


def test_a_corpus_level_metric_of_a_group_is_refused(function: Write, choice: Any, freeze: Any, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in ("one", "two"):
        spec = choice(name, task=name, metric_list=[{"metric": "mcc"}])
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec))
    (folder / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": ["one", "two"]}))
    with pytest.raises(TaskError, match="'both' is a group, and its metric is corpus-level; list its tasks"):
        freeze("both", include_path=str(folder))


def test_the_gold_choice_of_a_descent_is_that_of_the_metric(function: Write, choice: Any, freeze: Any) -> None:
    plain = freeze({"name": "mc", "spec": choice()})
    items = plain.plan.items("search")
    for text, more in ((CHOOSE, {}), (PAIRS, {"aggregate": "scores.py:balanced"})):
        own = freeze({"name": "mc", "spec": choice(), "score": function(text), **more})
        assert [own.loss(item).gold for item in items] == [plain.loss(item).gold for item in items]


def test_the_functions_of_the_page_do_what_it_says(function: Write, choice: Any, freeze: Any, score: Any) -> None:
    page = (Path(__file__).parents[3] / "docs" / "scores.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    function("\n".join(blocks))
    rows = [{"q": f"{i}?", "answer": f"so it is\n#### 1,{i:03}"} for i in range(60)]
    spec = {key: value for key, value in choice("gsm", {"test": rows}, **GENERATION).items() if value is not None}
    spec |= {"doc_to_target": "{{answer}}"}
    scorer = freeze({"name": "gsm8k", "spec": spec, "score": "scores:brief_and_right"}, chunk_items=20)
    chunk = scorer.plan.chunks["search"][0]
    numbers = [int(item.rpartition("/")[2]) for item in chunk.items]
    ends = [(f"is 1{n:03}", 1.0) if place % 2 else (f"{n}", 0.0) for place, n in enumerate(numbers)]
    answers = [Answer(f"{'x' * 60 * (place % 3 == 0)} {end}") for place, (end, _) in enumerate(ends)]
    wanted = [right * (0.8 if place % 3 == 0 else 1.0) for place, (_, right) in enumerate(ends)]
    assert list(scorer.grade(chunk, answers).values()) == pytest.approx(wanted)

    entry = {"name": "mc", "spec": choice(), "score": "scores:pairs", "aggregate": "scores:balanced_accuracy"}
    own = freeze(entry)
    by_hand = freeze({**entry, "score": function(PAIRS), "aggregate": "scores.py:balanced"})
    assert own.plan.by_task(score(own)) == by_hand.plan.by_task(score(by_hand))
