"""A search over orders of layers, and recipes with slices as rows, in `score` and in `replay`."""

import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from evomerge.experiment.finished_model import score_model
from evomerge.export import merge_recipe
from evomerge.recipes import load_recipe
from tests.conftest import QUICKSTART, SMALL, evomerge
from tests.experiment.test_finished_model import task

FAMILY = QUICKSTART / "family"


def part(name: str, first: int, last: int) -> dict[str, object]:
    return {"sources": [{"model": str(FAMILY / name), "layer_range": [first, last]}]}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mergekit document of six layers."""
    path = tmp_path_factory.mktemp("stack") / "mergekit.yml"
    document = {"merge_method": "passthrough", "dtype": "float32", "slices": [part("base", 0, 3), part("last", 1, 4)]}
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def run(stack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("flow")
    changes = ["budget.evaluations=12", f"+baselines.recipes.stack={stack}", "space.flow.models=[base,last]"]
    said = evomerge("+experiment=quickstart_flow", *SMALL[:2], *changes, f"init=[{stack}]", cwd=cwd)
    assert said.code == 0, said
    return cwd / "runs" / "quickstart_flow"


def test_a_run_over_flows_has_rows_and_replays(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    assert [row["label"] for row in result["rows"]][:7] == [
        "base",
        "shift",
        "last",
        "max",
        "uniform",
        "frankenmerge",
        "stack",
    ]
    assert result["counts"]["failed"] == 0
    said = evomerge("replay", str(run), cwd=run)
    assert said.code == 0 and said.out.count("same ") == 4, said
    assert (run / "report.html").is_file()


def test_the_candidates_of_a_run_are_recipes_of_mergekit(run: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    found = [line["recipe"] for line in lines if "recipe" in line and "slices" in line["recipe"]]
    assert len(found) > 12
    assert all(document["merge_method"] == "passthrough" for document in found)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(found[-1]))
    merge_recipe(path, tmp_path / "out")
    layers = json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"]
    assert layers == sum(last - first for first, last in (s["sources"][0]["layer_range"] for s in found[-1]["slices"]))


def test_a_stack_is_scored_as_its_export_is(stack: Path, tmp_path: Path) -> None:
    merge_recipe(stack, tmp_path / "out")
    given = {"tasks": [task("last")], "device": "cpu", "limit": 50}
    live, folder = (score_model(str(path), given, Console(quiet=True)) for path in (stack, tmp_path / "out"))
    assert live.results["results"] == folder.results["results"]
    assert load_recipe(stack).method == "passthrough"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("space.flow.blocks=9", "space.flow.blocks=9: the base has 4 layers, 0 of them pinned; give 1 to 4"),
        ("method=ties", "space.flow: it copies layers; set method=passthrough with it"),
        ("space.flow.models=[base,sift]", "space.flow.models: sift is no model of this search (did you mean 'shift'?)"),
        ("optimizer=slope", "optimizer: no searched gene of passthrough has a slope"),
        ("screen.most=2", "screen.most: a flow chooses layers, not experts; set it to null"),
    ],
)
def test_a_wrong_flow_is_one_line(change: str, line: str, tmp_path: Path) -> None:
    said = evomerge("check", "+experiment=quickstart_flow", *SMALL[:2], change, cwd=tmp_path)
    assert line in said.refused(2), said
