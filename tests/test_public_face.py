"""`import evomerge`: the functions that the commands have, their signatures, and that both give the same."""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest
import yaml

import evomerge
from evomerge.experiment.defaults import with_defaults
from tests.cli.test_conf import composed
from tests.conftest import QUICKSTART, ROOT

SIGNATURES = {
    "search": "(config: Any, folder: Any = None, *,"
    " tasks: collections.abc.Sequence[str | collections.abc.Mapping[str, typing.Any]] | None = None,"
    " hours: float | None = None, items: int | None = None, out: str | pathlib.Path | None = None, seed: int = 1,"
    " rules: str | None = None, most: int | None = None,"
    " inputs: collections.abc.Sequence[str | pathlib.Path] | None = None,"
    " console: 'Console | None' = None) -> 'Result'",
    "check": "(config: collections.abc.Mapping[str, typing.Any] | str | pathlib.Path,"
    " folder: str | pathlib.Path | None = None, *, deep: bool = False) -> list[str]",
    "merge": "(recipe: 'Recipe | str | Path', out: str | pathlib.Path, *, adapter: bool = False,"
    " rank: int | None = None, format: str | None = None, llama_cpp: str | pathlib.Path | None = None,"
    " push: str | None = None, private: bool = False, trust_remote_code: bool = False) -> str",
    "score": "(model: str | pathlib.Path, tasks: str | collections.abc.Sequence[str | collections.abc.Mapping[str,"
    " typing.Any]], *, num_fewshot: int | None = None, limit: float | None = None, apply_chat_template: bool = False,"
    " dtype: str | None = None, device: str = 'auto', batch_size: int = 16,"
    " settings: collections.abc.Mapping[str, typing.Any] | None = None) -> dict[str, typing.Any]",
    "replay": "(run: str | pathlib.Path) -> 'list[Replayed]'",
    "submit": "(run: str | pathlib.Path, out: str | pathlib.Path,"
    " inputs: collections.abc.Sequence[str | pathlib.Path] = (), *, predict: Literal['right', 'kit'] = 'right',"
    " name: str | None = None, max_gen_len: int = 64, max_seq_len: int | None = None, device: str | None = None)"
    " -> 'Pack'",
    "load_recipe": "(path: str | pathlib.Path) -> evomerge.recipes.recipe.Recipe",
}
VERBS = sorted(SIGNATURES)
VALUES = ("Pack", "Recipe", "Replayed", "Result")


def test_the_public_names_are_these() -> None:
    assert sorted(evomerge.__all__) == sorted([*VERBS, *VALUES, "EvomergeError", "__version__"])


@pytest.mark.parametrize("verb", VERBS)
def test_a_signature_changes_only_on_purpose(verb: str) -> None:
    function = getattr(evomerge, verb)
    assert str(inspect.signature(function)) == SIGNATURES[verb] and function.__doc__


@pytest.fixture(scope="module")
def twins(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, evomerge.Result]:
    """The finished quickstart of the command line, and the same search made by `evomerge.search`."""
    folder = tmp_path_factory.mktemp("twin") / "run"
    return finished, evomerge.search(finished / "config.yaml", folder)


def test_a_search_is_the_command_lines_search(twins: tuple[Path, evomerge.Result]) -> None:
    finished, result = twins
    assert (result.folder / "recipe.yaml").read_bytes() == (finished / "recipe.yaml").read_bytes()
    assert result.recipe == evomerge.load_recipe(finished / "recipe.yaml")
    told = evomerge.Result.load(finished)
    assert told.rows == result.rows and told.fingerprint == result.fingerprint and told.verdict == result.verdict


def test_rows_are_flat_and_a_frame_has_one_for_each_model(twins: tuple[Path, evomerge.Result]) -> None:
    _, result = twins
    frame = result.to_pandas()
    assert list(frame.index)[:2] == ["base", "shift"] and frame.index[-1] == result.rows[-1]["label"]
    assert frame.loc["shift", "holdout/shift"] == 1.0 and set(frame.columns) >= {"role", "search", "select", "holdout"}
    assert str(result.folder) in str(result) and result.best_baseline in str(result)
    assert result.winner_is == []
    same = dataclasses.replace(result, document={**result.document, "winner_is": [{"label": "last", "kind": "expert"}]})
    assert same.winner_is == ["last"] and "the winner is the expert 'last' itself" in str(same)
    assert {path.suffix for path in result.save_figures(result.folder / "figures")} == {".svg", ".pdf"}


def test_a_recipe_as_a_value_is_merged_and_scored(twins: tuple[Path, evomerge.Result], tmp_path: Path) -> None:
    _, result = twins
    assert evomerge.merge(result.recipe, tmp_path / "merged") == result.fingerprint
    task = yaml.safe_load((result.folder / "config.yaml").read_text())["scorer"]["tasks"][0]
    out = {"out": str(tmp_path / "scores.json")}
    scores = evomerge.score(tmp_path / "merged", [task], device="cpu", limit=20, settings=out)
    assert json.loads((tmp_path / "scores.json").read_text())["results"] == scores["results"]
    assert scores["results"][task["name"]]["acc,none"] > 0.5


def test_a_run_replays(twins: tuple[Path, evomerge.Result]) -> None:
    values = evomerge.replay(twins[1].folder)
    assert [value.what for value in values] == ["fingerprint", "score on search", "score on select", "score on holdout"]
    assert all(value.same for value in values)


def test_what_a_mapping_leaves_out_has_the_defaults_of_the_command_line() -> None:
    written = yaml.safe_load((ROOT / "conf" / "experiment" / "quickstart.yaml").read_text())
    text = yaml.safe_dump(written, sort_keys=False).replace("${home:experiments/quickstart", f"{QUICKSTART}")
    assert with_defaults(yaml.safe_load(text.replace("}/", "/"))) | {"name": "x"} == composed("+experiment=quickstart")


def test_what_cannot_be_meant_is_one_line(finished: Path, tmp_path: Path) -> None:
    given = {"base": "x", "experts": {"a": "y"}, "scorer": {"tasks": ["t"]}}
    for config, text in (
        (given, "give the run's folder, or a name"),
        ({**given, "name": "x", "budgte": {}}, "budgte: unknown key"),
        (tmp_path / "none.yaml", "none.yaml: No such file"),
        (ROOT / "conf" / "config.yaml", "Hydra has to compose it"),
        (finished / "report.html", "not "),
    ):
        with pytest.raises(evomerge.EvomergeError, match=text) as caught:
            evomerge.check(config)
        assert "\n" not in str(caught.value)
    with pytest.raises(evomerge.EvomergeError, match="give a recipe file"):
        evomerge.merge(finished, tmp_path / "out")
    with pytest.raises(evomerge.EvomergeError, match=r"such as result\.recipe"):
        evomerge.merge(evomerge.Result.load(finished), tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(evomerge.EvomergeError, match="config=None: give a mapping"):
        evomerge.check(None)  # type: ignore[arg-type]
    with pytest.raises(evomerge.EvomergeError, match="set adapter=True"):
        evomerge.merge(finished / "recipe.yaml", tmp_path / "out", rank=4)
    with pytest.raises(evomerge.EvomergeError, match=r"no config\.yaml"):
        evomerge.Result.load(tmp_path)
