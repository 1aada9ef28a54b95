"""The model card and reproduce.json: what the hub's own library reads of them, and no path of this machine."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from evomerge.export import merge_recipe
from evomerge.export.card import model_card
from evomerge.export.evidence import Evidence, find_evidence
from evomerge.export.licences import UNDECIDED, merged_licence
from evomerge.export.origins import Origin, Origins
from evomerge.recipes import ModelRef, Source, load_recipe, recipe_of_models
from tests.conftest import Command


def head(folder: Path) -> dict[str, Any]:
    text = (folder / "README.md").read_text()
    found = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The winner of a small run, merged."""
    out = tmp_path_factory.mktemp("card") / "quick-merge"
    merge_recipe(finished / "recipe.yaml", out)
    return out


def test_the_hubs_library_reads_the_holdout_results(exported: Path, finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    card = ModelCard.load(exported / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.tags == ["merge", "evomerge", "mergekit", "task_arithmetic"]
    assert card.data.model_name == "quick-merge"
    found = {(one.dataset_name, one.metric_type): one for one in card.data.eval_results or ()}
    winner = result["rows"][-1]
    assert found["all tasks", "score"].metric_value == pytest.approx(winner["scores"]["holdout"], abs=1e-6)
    for task, score in winner["tasks"].items():
        assert found[task, "score"].metric_value == pytest.approx(score, abs=1e-6)
        assert found[task, "score"].dataset_split == "holdout"
    lead = found["all tasks", "difference"]
    assert lead.metric_value == pytest.approx(result["difference"], abs=1e-6)
    assert lead.metric_args is not None
    assert lead.metric_args["baseline"] == result["best_baseline"]
    assert (lead.metric_args["low"], lead.metric_args["high"]) == tuple(result["interval"][k] for k in ("low", "high"))


def test_the_table_has_every_model_and_the_intervals(exported: Path) -> None:
    text = (exported / "README.md").read_text()
    for label in ("base", "shift", "last", "max", "uniform", "default", "**this merge**"):
        assert f"\n| {label} | 0." in text or f"\n| {label} | 1." in text
    assert "95% interval" in text and "] |" in text


def test_a_label_does_not_break_the_table(finished: Path) -> None:
    recipe = load_recipe(finished / "recipe.yaml")
    result = json.loads((finished / "result.json").read_text())
    result["rows"][1] |= {"label": "a|b", "scores": {"holdout": float("nan")}}
    text = model_card(recipe, "float32", "mine", Evidence(result, {}))
    assert "\n| a\\|b | failed |  |\n" in text


def test_no_path_of_this_machine_is_in_card_or_reproduction(exported: Path, finished: Path) -> None:
    family = str(Path(load_recipe(finished / "recipe.yaml").models()[0].path).parent)
    for name in ("README.md", "reproduce.json"):
        text = (exported / name).read_text()
        assert family not in text and str(Path.home()) not in text and str(finished) not in text
    assert family in (exported / "recipe.yaml").read_text()  # which is to be merged here


def test_the_reproduction_has_what_another_machine_needs(exported: Path, finished: Path) -> None:
    found = json.loads((exported / "reproduce.json").read_text())
    result = json.loads((finished / "result.json").read_text())
    recipe = load_recipe(finished / "recipe.yaml")
    assert found["fingerprint"] == result["fingerprint"]
    assert found["commands"]["merge"] == "evomerge merge recipe.yaml OUT"
    assert found["seeds"] == {"recipe": recipe.seed, "search": 1}
    hashes = recipe.notes["models"]
    expected = [{"folder": Path(ref.path).name, "sha256": hashes[str(ref)]} for ref in recipe.models()]
    assert found["models"] == expected
    assert found["config"]["base"] == "base" and "pool" not in found["config"] and "tracker" not in found["config"]
    assert found["claim"]["interval"] == result["interval"]
    assert set(found["versions"]["search"]) >= {"torch", "transformers"}
    again = yaml.safe_load(found["recipe"])
    assert again["base_model"] == "base" and again["evomerge"]["fingerprint"] == result["fingerprint"]


def test_a_recipe_of_another_run_is_no_evidence(finished: Path, tmp_path: Path) -> None:
    for name in ("result.json", "config.yaml", "recipe.yaml"):
        shutil.copy(finished / name, tmp_path / name)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert find_evidence(tmp_path / "recipe.yaml", recipe).result
    assert find_evidence(recipe, recipe) == Evidence()
    other = recipe.with_notes({**recipe.notes, "fingerprint": "00"})
    assert find_evidence(tmp_path / "recipe.yaml", other) == Evidence()
    (tmp_path / "result.json").write_text("{")
    assert find_evidence(tmp_path / "recipe.yaml", recipe) == Evidence()


def test_hub_ids_are_base_models_and_folders_are_not(tmp_path: Path) -> None:
    cached = tmp_path / "models--org--math" / "snapshots" / "abc123"
    for folder in (cached, tmp_path / "a" / "last", tmp_path / "b" / "last"):
        folder.mkdir(parents=True)
    base = ModelRef("org/base", "0" * 40)
    refs = [
        ModelRef(str(cached)),
        ModelRef(base.path, base.revision, "me/lora", "1" * 40),
        ModelRef(str(tmp_path / "a" / "last")),
        ModelRef(str(tmp_path / "b" / "last")),
    ]
    origins = Origins(recipe_of_models("linear", base, tuple(Source(ref, {"weight": 1.0}) for ref in refs), {}))
    assert origins.hub_ids() == ["org/base", "org/math", "me/lora"]
    assert [origins.name(ref) for ref in refs] == [
        "org/math@abc123",
        f"org/base@{'0' * 40}+me/lora@{'1' * 40}",
        "a/last",
        "b/last",
    ]
    assert origins.text(f"x: {cached}\ny: {tmp_path}/b/last\n") == "x: org/math@abc123\ny: b/last\n"
    config = {"experts": {"m": str(cached), "l": f"org/base+{tmp_path}/a/last"}, "tasks": [{"file": "/home/me/t.csv"}]}
    assert origins.value(config) == {
        "experts": {"m": "org/math@abc123", "l": "org/base+a/last"},
        "tasks": [{"file": "t.csv"}],
    }


def licensed(folder: Path, licence: str | None) -> Origin:
    folder.mkdir()
    if licence:
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    return Origin(str(folder), folder.name, None, False)


def test_a_file_of_a_hub_model_keeps_its_name() -> None:
    cached = "/home/me/.cache/hub/models--owner--base/snapshots/ab12"
    ref = ModelRef("owner/quantised/model.gguf", "cd34")
    sources = (Source(ref, {"weight": 0.5}), Source(ModelRef(cached), {"weight": 0.5}))
    origins = Origins(recipe_of_models("linear", ModelRef(cached), sources, {}, out_dtype="float32"))
    assert origins.text(f"a: {ref}\nb: {cached}\n") == "a: owner/quantised/model.gguf@cd34\nb: owner/base@ab12\n"
    assert origins.value({"base": cached, "file": "owner/quantised/model.gguf"}) == {
        "base": "owner/base@ab12",
        "file": "owner/quantised/model.gguf",
    }
    assert origins.hub_ids() == ["owner/base", "owner/quantised"]


def test_an_equal_licence_is_that_of_the_merge(tmp_path: Path) -> None:
    same = [licensed(tmp_path / name, "Apache-2.0") for name in ("a", "b")]
    assert merged_licence(same)[0] == {"license": "apache-2.0"}
    assert merged_licence([licensed(tmp_path / "c", "house-rules")])[0] == {
        "license": "other",
        "license_name": "house-rules",
    }


@pytest.mark.parametrize("other", ["mit", None])
def test_other_licences_are_one_line(other: str | None, tmp_path: Path) -> None:
    keys, sentence = merged_licence([licensed(tmp_path / "a", "llama3"), licensed(tmp_path / "b", other)])
    assert not keys and sentence.startswith(UNDECIDED) and f"a: llama3, b: {other or 'unknown'}." in sentence


def test_private_without_push_is_refused(command: Command) -> None:
    assert "--push" in command("merge", "recipe.yaml", "out", "--private").refused(2)
