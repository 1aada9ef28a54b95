"""A search over experts that added tokens: one merged vocabulary for candidates, baselines, scores and the export."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

import evomerge
from evomerge.errors import ConfigError, RunError
from evomerge.experiment.resume import fixed_part
from evomerge.recipes import load_recipe, parse_recipe
from tests.conftest import evomerge as command
from tests.vocabularies import PLAIN, Model, write

CHAT = Model(added=("<|im_start|>", "<|im_end|>"), seed=1)
TOOL = Model(added=("<tool>",), seed=2, padding=3, tokens=PLAIN[::-1])
ROWS = len(PLAIN) + 3


def configuration(folder: Path, **changes: Any) -> dict[str, Any]:
    task = {"name": "questions", "file": str(folder / "questions.csv")}
    return {
        "name": "mine",
        "base": str(folder / "base"),
        "experts": {"chat": str(folder / "chat"), "tool": str(folder / "tool")},
        "tokenizer": {"source": "union"},
        "model": {"dtype": "float32", "device": "cpu"},
        "space": {"schedule": "all", "subset": True},
        "scorer": {"slices": {"search": 8, "select": 8, "holdout": 8}, "tasks": [task]},
        "budget": {"evaluations": 6},
        "finalise": {"top": 1},
        **changes,
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, model in {"base": Model(), "chat": CHAT, "tool": TOOL}.items():
        write(folder / name, model)
    words = ["abcd", "dead", "cab", "h", "efab", "<|im_end|>", "<tool>", "bad"]
    pairs = [(one, other) for one in words for other in words[:4] if one != other]
    rows = [f"{one} {other} {one},{other},{one},{'AB'[i % 2]}" for i, (one, other) in enumerate(pairs)]
    (folder / "questions.csv").write_text("\n".join(["question,A,B,answer", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def finished(models: Path) -> Path:
    evomerge.search(configuration(models), models / "run")
    return models / "run"


def test_every_recipe_of_the_run_has_the_merged_vocabulary(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "trials.jsonl").read_text().splitlines()[1:]]
    recipes = {line["key"]: line["recipe"] for line in lines if "recipe" in line}
    assert len(recipes) > 5  # base, experts, average and candidates
    for key, document in recipes.items():
        parsed = parse_recipe(document)
        assert parsed.key() == key and len(parsed.vocabulary["models"]) == 3
        assert document["tokenizer"] == {"source": "union"}


def test_the_exported_winner_has_the_fingerprint_and_the_tokens_that_were_scored(
    finished: Path, models: Path, tmp_path: Path
) -> None:
    scored = json.loads((finished / "result.json").read_text())["fingerprint"]
    assert evomerge.merge(finished / "recipe.yaml", tmp_path / "out") == scored
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == ROWS
    merged = AutoTokenizer.from_pretrained(tmp_path / "out")
    for name, text in {"chat": "abcd <|im_start|> dead <|im_end|>", "tool": "abcd <tool> dead"}.items():
        own = AutoTokenizer.from_pretrained(models / name)
        assert merged.convert_ids_to_tokens(merged(text).input_ids) == own.convert_ids_to_tokens(own(text).input_ids)


def test_a_recipe_of_one_expert_keeps_the_tokens_of_the_others(finished: Path, tmp_path: Path) -> None:
    document = yaml.safe_load((finished / "recipe.yaml").read_text())
    document["models"] = [{"model": document["evomerge"]["vocabulary"]["models"][1], "parameters": {"weight": 1.0}}]
    del document["evomerge"]["fingerprint"]
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(document))
    evomerge.merge(tmp_path / "one.yaml", tmp_path / "out")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()) == ROWS


def test_replay_and_score_find_the_same(finished: Path) -> None:
    assert all(found.same for found in evomerge.replay(finished))
    found = evomerge.score(
        finished / "recipe.yaml", ["questions_of_mine"], settings={"include_path": str(spec(finished))}
    )
    assert set(found["results"]) == {"questions_of_mine"}


def spec(finished: Path) -> Path:
    """A task of lm-eval with the same questions."""
    folder = finished.parent / "tasks"
    folder.mkdir(exist_ok=True)
    data = {"data_files": {"test": str(finished.parent / "questions.csv")}, "cache_dir": str(folder / "cache")}
    task = {"task": "questions_of_mine", "dataset_path": "csv", "dataset_kwargs": data, "test_split": "test"}
    task |= {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{[A, B]}}"}
    task |= {"doc_to_target": "{{['A', 'B'].index(answer)}}", "metric_list": [{"metric": "acc"}]}
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    return folder


def test_check_says_what_is_done(models: Path) -> None:
    said = "\n".join(evomerge.check(configuration(models)))
    assert f"those of all models together: {ROWS} rows (the base has {len(PLAIN)})" in said
    assert "a row that a model lacks is that of the only model with the token" in said
    pieces = {"source": "chat", "missing": "pieces"}
    assert "the mean of the rows of the token's pieces" in "\n".join(
        evomerge.check(configuration(models, tokenizer=pieces))
    )


def test_equal_vocabularies_stay_as_they_are(models: Path, tmp_path: Path) -> None:
    expert = write(tmp_path / "same", Model(seed=1))
    changes: dict[str, Any] = {"experts": {"same": expert}, "space": {"schedule": "all"}}
    said = evomerge.check(configuration(models, **changes))
    assert "tokens    those of all models together: the rows stay as they are in all models" in said
    with pytest.raises(ConfigError, match=r"tokenizer.source: .*same has the base's tokens in the same rows"):
        evomerge.check(configuration(models, **changes, tokenizer={"source": "same"}))


def test_the_audit_compares_tokens_not_rows(models: Path) -> None:
    said = "\n".join(evomerge.check(configuration(models), deep=True))
    assert "eos_token_id" not in said and "are other tokens" not in said and "3 findings" not in said
    experts = {"chat": str(models / "chat")}
    changes: dict[str, Any] = {"experts": experts, "tokenizer": {}, "space": {"schedule": "all"}}
    said = "\n".join(evomerge.check(configuration(models, **changes), deep=True))
    assert "18 tokens, the base has 16; '<|im_start|>' is in one of them only" in said
    assert "set tokenizer.source=base, or union to keep all tokens" in said


def test_check_names_the_tokens_that_are_not_kept(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes = {"tokenizer": {}, "experts": {"chat": str(models / "chat")}, "space": {"schedule": "all"}}
    said = "\n".join(evomerge.check(configuration(models, **changes)))
    assert "chat: its tokenizer adds '<|im_start|>', '<|im_end|>'; the base's vocabulary is kept, set token" in said
    assert "18 rows of its vocabulary, the base has 16: the others are left out" in caplog.text


def test_another_vocabulary_is_another_search(models: Path, finished: Path) -> None:
    with pytest.raises(RunError, match="tokenizer"):
        evomerge.search(configuration(models, tokenizer={"source": "base"}), finished)


def test_a_search_without_the_section_resumes_ledgers_that_are_older_than_it() -> None:
    empty = {"source": None, "tokens": {}, "pad_to_multiple_of": None, "missing": "default"}
    assert fixed_part({"seed": 1, "tokenizer": empty}) == fixed_part({"seed": 1, "tokenizer": {}}) == {"seed": 1}
    assert "tokenizer" in fixed_part({"tokenizer": {**empty, "source": "base"}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": {"source": "uni"}}, "tokenizer: source: no model uni .did you mean 'union'"),
        ({"tokenizer": {"source": "cat"}}, "tokenizer.source: cat is no model of the search; give chat, tool or base"),
        ({"tokenizer": {"sorce": "base"}}, "tokenizer: no key sorce .did you mean 'source'"),
        ({"tokenizer": {"missing": "pieces"}}, "tokenizer.missing: it has no effect without tokenizer.source"),
        (
            {"tokenizer": {"source": "base", "missing": "mean"}},
            "tokenizer: missing: 'mean': choose one of default, piec",
        ),
        ({"tokenizer": {"tokens": {"ab": {"source": "cat"}}}}, "tokenizer.tokens.ab: cat is no model of the search"),
        (
            {"submission": {"pack": True}},
            "submission.pack: a pack has the base's vocabulary; set tokenizer.source=null",
        ),
        ({"experts": {n: f"m/{n}" for n in "abc"}, "screen": {"most": 2}}, "tokenizer: .*set screen.most=null with it"),
    ],
    ids=["union", "source", "key", "missing", "rule", "token", "pack", "screen"],
)
def test_what_the_section_cannot_mean_is_refused(changes: dict[str, Any], message: str, models: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        evomerge.check(configuration(models, **changes))


def test_a_baseline_of_another_vocabulary_is_refused(models: Path, finished: Path, tmp_path: Path) -> None:
    document = yaml.safe_load((finished / "recipe.yaml").read_text())
    (tmp_path / "same.yaml").write_text(yaml.safe_dump(document))
    evomerge.check(configuration(models, baselines={"recipes": {"same": str(tmp_path / "same.yaml")}}))
    document["tokenizer"] = {"source": "base"}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match=r"baselines.recipes.other: tokenizer: it makes another vocabulary than the"):
        evomerge.check(configuration(models, baselines={"recipes": {"other": str(tmp_path / "other.yaml")}}))


def test_submit_refuses_other_rows_in_one_line(finished: Path) -> None:
    said = command("submit", str(finished), "pack.tar", cwd=finished.parent)
    assert "another vocabulary than the base's" in said.refused(2)
    assert load_recipe(finished / "recipe.yaml").vocabulary["tokenizer"] == {"source": "union"}


@pytest.mark.parametrize("method", ["slerp", "linear", "passthrough"])
@pytest.mark.parametrize("source", ["base", "union"])
def test_a_method_that_merges_without_the_base_exports_the_scored_rows(
    method: str, source: str, models: Path, tmp_path: Path
) -> None:
    """Slerp of two experts has no base, a flow copies layers: the rows are those of the search all the same."""
    spaces = {"passthrough": {"flow": {"repeats": 1, "blocks": 1, "pinned": 0}}}
    config = configuration(
        models, method=method, tokenizer={"source": source}, space=spaces.get(method, {"schedule": "all"})
    )
    evomerge.search(config, tmp_path / "run")
    scored = json.loads((tmp_path / "run" / "result.json").read_text())["fingerprint"]
    assert evomerge.merge(tmp_path / "run" / "recipe.yaml", tmp_path / "out") == scored
    rows = ROWS if source == "union" else len(PLAIN)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == rows


def test_padded_experts_are_not_merged_without_the_base_unless_rows_are_requested(models: Path) -> None:
    write(models / "padded", Model(padding=4, seed=3))
    changes = {"method": "slerp", "tokenizer": {}, "space": {"schedule": "all"}}
    experts = {"padded": str(models / "padded"), "chat": str(models / "chat")}
    with pytest.raises(ConfigError, match=r"slerp merges without the base; set tokenizer\.source=base"):
        evomerge.check(configuration(models, experts=experts, **changes))
