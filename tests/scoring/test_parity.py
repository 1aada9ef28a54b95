"""Item scores and their mean are those of `lm_eval.simple_evaluate` on the same items."""

import csv
import logging
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from evomerge.errors import CandidateError
from evomerge.scoring.protocol import SLICES
from evomerge.scoring.tasks import TaskLoader, read_tasks
from tests.scoring.conftest import random_model


@pytest.fixture(params=["llama", "gpt2", "gemma2"])
def model(request: Any) -> Any:
    """Three families; the fixtures of the engine take this model."""
    return random_model(request.param)


@pytest.fixture
def harness(model: Any, tokenizer: Any) -> Any:
    """Per-item values of every metric, and the aggregate, as lm-eval reports them."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=16, softmax_dtype="float32")

    def run(task: Any, metric: str, name: str = "mc", pipeline: str = "none", **options: Any) -> Any:
        manager = options.pop("task_manager", None) or TaskManager(include_defaults=False)
        out = lm_eval.simple_evaluate(
            model=lm, tasks=[task], task_manager=manager, bootstrap_iters=0, log_samples=True, **options
        )
        rows = [row for row in out["samples"][name] if row["filter"] == pipeline]
        return {row["doc_id"]: row[metric] for row in rows}, out["results"][name][f"{metric},{pipeline}"]

    return run


def rows_of(scores: dict[str, float]) -> dict[int, float]:
    return {int(item.rpartition("/")[2]): score for item, score in scores.items()}


METRICS = [
    {"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm", "acc_mutual_info")
]


@pytest.mark.parametrize("metric", ["acc", "acc_norm", "acc_mutual_info"])
def test_choices_score_as_in_lm_eval(harness, choice, freeze, score, metric) -> None:
    spec = choice(metric_list=METRICS)
    scorer = freeze({"name": "mc", "spec": spec, "metric": metric})
    ours = score(scorer)
    ids = sorted(rows_of(ours))
    theirs, mean = harness({**spec, "task": "mc"}, metric, samples={"mc": ids})
    assert rows_of(ours) == theirs
    assert scorer.plan.score(ours) == pytest.approx(mean)
    assert 0 < mean < 1  # a constant would agree with anything


@pytest.mark.parametrize("count", [2, 10])
def test_two_to_ten_choices_of_one_token_score_as_in_lm_eval(harness, choice, freeze, score, count) -> None:
    rows = [{"q": f"{i}+{i % 5}=", "choices": list("0123456789"[:count]), "gold": i % count} for i in range(60)]
    spec = choice(rows={"validation": rows})
    ours = score(freeze({"name": "mc", "spec": spec, "search": 40}), *SLICES)
    theirs, mean = harness({**spec, "task": "mc"}, "acc")
    assert rows_of(ours) == theirs and 0 < mean < 1


def test_a_cloze_scores_as_in_lm_eval(harness, choice, freeze, score) -> None:
    """Whether the likeliest text is the right one: a random model is right when the text is what it says anyway."""
    spec = choice(output_type="loglikelihood", doc_to_choice=None, doc_to_target="{{choices[gold]}}")
    spec["metric_list"] = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    ours = score(freeze({"name": "mc", "spec": spec}), *SLICES)
    theirs, _ = harness({**spec, "task": "mc"}, "acc")
    assert rows_of(ours) == {row: theirs[row] for row in rows_of(ours)}


def test_five_shots_from_another_split_score_as_in_lm_eval(harness, choice, freeze, score, sums) -> None:
    rows = {"validation": sums(40), "train": sums(9, start=100)}
    shots = {"sampler": "first_n", "split": "train"}
    spec = choice(rows=rows, training_split="train", fewshot_config=shots, num_fewshot=5)
    ours = score(freeze({"name": "mc", "spec": spec}), *SLICES)
    theirs, _ = harness({**spec, "task": "mc"}, "acc")
    assert rows_of(ours) == theirs


def test_few_shot_prompts_are_those_of_a_full_run(harness, choice, freeze, score, sums) -> None:
    rows = {"validation": sums(40), "train": sums(30, start=100)}
    spec = choice(rows=rows, training_split="train", fewshot_split="train")
    ours = score(freeze({"name": "mc", "spec": spec, "num_fewshot": 2}), *SLICES)
    theirs, mean = harness({**spec, "task": "mc"}, "acc", num_fewshot=2)
    assert rows_of(ours) == theirs
    assert sum(ours.values()) / len(ours) == pytest.approx(mean)


def test_few_shot_prompts_hold_the_examples(choice, freeze, sums) -> None:
    spec = choice(rows={"validation": sums(40), "train": sums(30, start=100)}, fewshot_split="train")
    scorer = freeze({"name": "mc", "spec": spec}, num_fewshot=2)
    (request, *_) = scorer.requests(scorer.plan.chunks["search"][0])
    assert request.arguments[0].count("\n\n") == 2


def test_csv_scores_as_in_lm_eval(harness, choice, freeze, score, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    data = {"data_files": {"validation": str(path)}, "cache_dir": str(tmp_path / "cache")}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["q", "a", "b", "gold"])
        writer.writerows([f"{i} or {i + 1}?", f"{i}", f"{i + 1}!", i % 2] for i in range(50))
    spec = choice(dataset_path="csv", dataset_kwargs=data, doc_to_choice="{{[a|string, b]}}")
    ours = score(freeze({"name": "mc", "spec": spec}))
    theirs, _ = harness({**spec, "task": "mc"}, "acc", samples={"mc": sorted(rows_of(ours))})
    assert rows_of(ours) == theirs
    (entry,) = read_tasks([{"name": "mc", "spec": spec}], {"search": 1, "select": 1, "holdout": 1})
    as_scored = TaskLoader().load_spec(entry)  # what `score` passes to lm-eval
    assert isinstance(as_scored, dict) and as_scored["doc_to_target"] == "{{ gold | int }}"
    assert harness(as_scored, "acc", samples={"mc": sorted(rows_of(ours))})[0] == theirs


@pytest.mark.parametrize("multiturn", [True, False])
def test_chat_template_with_system_prompt_and_shots(harness, choice, freeze, score, multiturn, sums) -> None:
    spec = choice(rows={"validation": sums(40), "train": sums(9, start=100)}, fewshot_split="train")
    options = {
        "apply_chat_template": True,
        "fewshot_as_multiturn": multiturn,
        "system_instruction": "Be brief.",
        "num_fewshot": 1,
    }
    scorer = freeze({"name": "mc", "spec": spec}, **options)
    prompt = scorer.requests(scorer.plan.chunks["search"][0])[0].arguments[0]
    assert prompt.startswith("[system]Be brief.;[user]") and prompt.endswith(";[assistant]")
    assert prompt.count("[user]") == (2 if multiturn else 1)
    theirs, _ = harness({**spec, "task": "mc"}, "acc", **options)
    assert rows_of(score(scorer, *SLICES)) == theirs


def generation(choice: Any) -> dict[str, Any]:
    """Answers are judged by their first letter, which a random model gets right now and then."""
    return choice(
        output_type="generate_until",
        doc_to_target="{{'abcdefghijklmnopqrstuvwxyz'[gold]}}",
        doc_to_choice=None,
        generation_kwargs={"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        filter_list=[
            {"name": "whole", "filter": [{"function": "take_first"}]},
            {
                "name": "kind",
                "filter": [
                    {"function": "regex", "regex_pattern": "([a-zA-Z])", "fallback": "a"},
                    {"function": "map", "mapping_dict": {c: "abc"[i % 3] for i, c in enumerate(LETTERS)}},
                    {"function": "take_first"},
                ],
            },
        ],
    )


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.mark.parametrize("pipeline", ["whole", "kind"])
def test_generation_scores_as_in_lm_eval(harness, choice, freeze, score, pipeline) -> None:
    spec = generation(choice)
    scorer = freeze({"name": "mc", "spec": spec, "filter": pipeline, "gen_kwargs": {"max_gen_toks": 6}})
    ours = score(scorer)
    theirs, _ = harness(
        {**spec, "task": "mc"},
        "exact_match",
        pipeline=pipeline,
        samples={"mc": sorted(rows_of(ours))},
        gen_kwargs={"max_gen_toks": 6},
    )
    assert rows_of(ours) == theirs
    assert len(set(ours.values())) == (2 if pipeline == "kind" else 1)
    assert scorer.requests(scorer.plan.chunks["search"][0])[0].arguments[1]["max_gen_toks"] == 6


def test_sampled_repeats_go_through_the_filters_and_depend_on_the_chunk_alone(choice, freeze, engine) -> None:
    spec = generation(choice) | {
        "repeats": 3,
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": True, "temperature": 1.0},
        "filter_list": [{"name": "vote", "filter": [{"function": "majority_vote"}, {"function": "take_first"}]}],
    }
    scorer = freeze({"name": "mc", "spec": spec})
    chunk = scorer.plan.chunks["search"][0]
    answers = engine.respond(scorer.requests(chunk))
    assert {len(answer) for answer in answers} == {3}
    assert len({text for answer in answers for text in answer}) > 1
    assert answers == engine.respond(scorer.requests(chunk))
    assert set(scorer.grade(chunk, answers).values()) <= {0.0, 1.0}


def rolling(folder: Path, choice: Any) -> str:
    """A task that lm-eval reports as a loss, and the folder that it is found in."""
    folder.mkdir()
    (folder / "nll.py").write_text("def process(doc, results):\n    return {'nll': -results[0]}\n")
    spec = choice(task="nll", output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{q}}")
    spec |= {"doc_to_choice": None, "process_results": "FUNCTION"}
    spec["metric_list"] = [{"metric": "nll", "aggregation": "mean", "higher_is_better": False}]
    text = yaml.safe_dump(spec).replace("FUNCTION", "!function nll.process")
    (folder / "nll.yaml").write_text(text)
    return str(folder)


def write_folder(folder: Path, choice: Any, sums: Any) -> None:
    folder.mkdir()
    for name, start in (("left", 0), ("right", 200)):
        spec = choice(name, {"validation": sums(30, start=start)}, task=name, tag="both_sides")
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec))
    group = {
        "group": "sides",
        "task": ["left", "right"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (folder / "sides.yaml").write_text(yaml.safe_dump(group))


@pytest.mark.parametrize("name", ["sides", "both_sides"])
def test_group_and_tag_of_a_folder_pool_their_tasks(harness, choice, freeze, score, tmp_path, name, sums) -> None:
    write_folder(tmp_path / "tasks", choice, sums)
    everything = {"search": "all", "select": ["left/3"], "holdout": ["right/4"]}
    scorer = freeze({"name": name, **everything}, include_path=str(tmp_path / "tasks"))
    ours = score(scorer, *SLICES)
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    for leaf in ("left", "right"):
        theirs, _ = harness(name, "acc", name=leaf, task_manager=manager)
        assert rows_of({i: s for i, s in ours.items() if i.startswith(f"{name}/{leaf}/")}) == theirs
    assert scorer.plan.by_task(ours) == {name: pytest.approx(sum(ours.values()) / 60)}


def test_rolling_task_with_a_metric_that_is_better_when_lower(choice, freeze, score, harness, tmp_path) -> None:
    folder = rolling(tmp_path / "tasks", choice)
    ours = score(freeze("nll", include_path=folder))
    manager = TaskManager(include_path=folder, include_defaults=False)
    theirs, _ = harness("nll", "nll", name="nll", task_manager=manager, samples={"nll": sorted(rows_of(ours))})
    ordered = [-theirs[row] for row in sorted(theirs)]
    assert [rows_of(ours)[row] for row in sorted(rows_of(ours))] == pytest.approx(ordered)
    assert len(set(ordered)) > 10


def test_a_value_that_is_not_finite_fails_the_candidate(choice, freeze, tmp_path) -> None:
    scorer = freeze("nll", include_path=rolling(tmp_path / "tasks", choice))
    chunk = scorer.plan.chunks["search"][0]
    with pytest.raises(CandidateError, match=r"item nll/validation/\d+: metric 'nll' is nan"):
        scorer.grade(chunk, [float("nan")] * len(chunk.items))
