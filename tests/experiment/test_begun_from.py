"""A search that begins from another run: what it is compared on, the other run has never seen."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.experiment.experiment import from_config
from evomerge.optimizers import Terms
from evomerge.recipes import load_recipe
from evomerge.scoring.protocol import Plan
from tests.cli.test_conf import composed
from tests.conftest import SMALL, evomerge

LARGE = ("scorer.slices={search: 100, select: 50, holdout: 150}",)
pytestmark = pytest.mark.filterwarnings("ignore:.*searchpath.*")


def plan(*overrides: str, folder: Path | None = None) -> tuple[Plan, dict[str, str]]:
    """The plan of a quickstart search, and item → content."""
    scorer = from_config(composed("+experiment=quickstart", *overrides), folder).scorer
    return scorer.plan, scorer.contents("search", "select", "holdout")


def header(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "trials.jsonl").read_text().splitlines()[0]))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has hardly begun, with large slices."""
    from evomerge.ledger.ledger import Ledger
    from evomerge.searching import ledger_header

    folder = tmp_path_factory.mktemp("first")
    config = composed("+experiment=quickstart", *LARGE)
    experiment = from_config(config)
    known = ledger_header(experiment.scorer, config)
    used = {"used": [], "contents": experiment.scorer.contents("search", "select")}
    Ledger(folder / "trials.jsonl", {**known, **used}).close()
    return folder


def test_select_and_holdout_are_new_to_the_other_run(first: Path) -> None:
    seen = set(header(first)["contents"].values())
    for overrides, shared in (((), True), ((f"init=[{first}]",), False)):
        found, contents = plan(*LARGE, "seed=2", *overrides)
        items = [item for name in ("select", "holdout") for item in found.items(name)]
        assert len(items) == 4 * 200
        assert bool({contents[item] for item in items} & seen) == shared
        assert {contents[item] for item in found.items("search")} & seen, "it may search on them again"


def test_documents_are_known_by_content_under_any_name(first: Path) -> None:
    """Another entry that reads the same file: its items have other ids."""
    config = composed("+experiment=quickstart", *LARGE, "seed=2", f"init=[{first}]")
    scorer: Any = config["scorer"]
    for task in scorer["tasks"]:
        task["name"] = f"other_{task['name']}"
    experiment = from_config(config)
    contents = experiment.scorer.contents("select", "holdout")
    assert not set(contents.values()) & set(header(first)["contents"].values())
    assert not set(contents) & set(header(first)["contents"]) and experiment.scorer.withheld == 4 * 150


def test_too_few_new_documents_are_one_line(first: Path, tmp_path: Path) -> None:
    sizes = "scorer.slices={search: 60, select: 60, holdout: 300}"
    said = evomerge("check", "+experiment=quickstart", sizes, f"init=[{first}]", cwd=tmp_path)
    line = said.refused(1)
    assert "holdout asks for 300 items, but runs of init have searched or selected on 150" in line


def test_a_run_begun_from_another_is_resumed_and_replayed(finished: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    command = ("+experiment=quickstart", *SMALL, f"init=[{other / 'recipe.yaml'}]", "seed=2", "name=next")
    said = evomerge("check", *command, cwd=tmp_path)
    assert said.code == 0 and "was chosen by 64 of the documents" in " ".join(said.out.split()), said
    assert evomerge(*command, cwd=tmp_path).code == 0
    folder = tmp_path / "runs" / "next"
    begun = header(folder)
    assert set(header(other)["contents"].values()) <= set(begun["used"])
    held = {item for id_, items in begun["chunks"].items() if not id_.startswith("search/") for item in items}
    assert not held & set(header(other)["contents"])
    (other / "trials.jsonl").unlink()  # the slices are those of the run's own ledger from now on
    said = evomerge(*command, "budget.evaluations=40", cwd=tmp_path)
    assert said.code == 0 and header(folder) == begun, said
    said = evomerge("replay", str(folder), cwd=tmp_path)
    assert said.code == 0 and "DIFFERS" not in said.out, said


def test_a_run_that_an_older_version_began_keeps_its_slices(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "old"
    shutil.copytree(finished, folder)
    lines = (folder / "trials.jsonl").read_text().splitlines(keepends=True)
    begun = json.loads(lines[0])
    begun = {key: value for key, value in begun.items() if key not in ("used", "contents")}
    begun["config"]["init"] = [str(finished)]
    (folder / "trials.jsonl").write_text("".join([json.dumps(begun) + "\n", *lines[1:]]))
    said = evomerge("check", "+experiment=quickstart", *SMALL, f"init=[{finished}]", "name=old", cwd=tmp_path)
    assert said.code == 0 and "will be resumed" in said.out, said


@pytest.mark.parametrize(("origin", "begins"), [("auto", True), ("seeds", True), ("middle", False)])
@pytest.mark.parametrize("optimizer", ["optimizer=slope", "optimizer.start=slope"])
def test_a_descent_begins_from_the_other_run(finished: Path, optimizer: str, origin: str, begins: bool) -> None:
    known = f"init=[{finished / 'recipe.yaml'}]"
    overrides = ("+experiment=quickstart", *SMALL, "seed=2", known, optimizer, f"optimizer.origin={origin}")
    experiment = from_config(composed(*overrides))
    made: Any = experiment.optimizer()
    request = next(made.descent(Terms(("copy",) * 16, (1.0,) * 16, 1e6, 2.5)))
    point, _ = experiment.space.nearest(load_recipe(finished / "recipe.yaml"))
    assert np.allclose(request.vector, point) == begins
    assert request.derivative != begins, "seeds are compared by their losses"
