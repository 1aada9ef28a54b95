"""Every file of conf/: it composes, and its parts can be built."""

from pathlib import Path

import pytest
import yaml

from evomerge.cli.compose import experiment_of_file
from evomerge.cli.spelled_numbers import refuse_changed_override
from evomerge.errors import ConfigError
from tests.conftest import QUICKSTART, ROOT, SMALL, Command, evomerge
from tests.lmc_files import write_lmc_files

CONF = ROOT / "conf"
GROUPS = sorted(
    f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml") if path.parent.name not in ("experiment",)
)
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
ELSEWHERE = ("pool=ray", *(f"tracker={name}" for name in TRACKERS))  # need cores, and packages of the extras
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def composed(*overrides: str) -> dict[str, object]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from evomerge.cli.compose import _home

    OmegaConf.register_new_resolver("home", _home, replace=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*overrides, "name=x"])  # the name's default needs a running Hydra
        plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.filterwarnings("ignore:.*searchpath.*")
def test_every_experiment_composes_and_its_keys_are_known(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evomerge.experiment.experiment import from_config

    monkeypatch.setenv("LMC_DATA", str(write_lmc_files(tmp_path)))  # files of questions are read with the keys
    config = composed(f"+experiment={name}")
    experiment = from_config(config)
    assert str(experiment.config.budget) and config["base"]


@pytest.mark.parametrize("choice", [choice for choice in GROUPS if choice not in ELSEWHERE])
@pytest.mark.filterwarnings("ignore:.*searchpath.*")
def test_every_preset_builds(choice: str) -> None:
    from evomerge import optimizers
    from evomerge.experiment.experiment import from_config

    needed = ["method=passthrough"] if choice == "space=flow" else []
    experiment = from_config(composed("+experiment=quickstart", *SMALL, choice, *needed))
    config, coordinates = experiment.config, experiment.space.coordinates()
    optimizer = optimizers.create(config.chosen("optimizer", "cma"), coordinates, [], 1, config.settings("optimizer"))
    if not optimizers.uses_slopes(config.chosen("optimizer", "cma"), config.settings("optimizer")):
        assert optimizer.ask()[0].shape == (len(coordinates),)


def test_rows_that_an_experiment_adds_are_named_by_check_and_what_is_wrong_by_key(command: Command) -> None:
    rows = ["+baselines.methods.ties=ties", "+baselines.methods.ta={name: task_arithmetic, genes: {weight: 0.2}}"]
    said = command("check", "+experiment=quickstart", *SMALL, *rows)
    assert said.code == 0 and "default, ties, ta" in " ".join(said.out.split())
    said = command("check", "+experiment=quickstart", *SMALL, "+baselines.methods.mine={nmae: ties}")
    assert said.code == 2 and "baselines.methods.mine.nmae: unknown key" in said.err
    said = command("check", "+experiment=quickstart", *SMALL, "+baselines.methods.mine=teis")
    assert said.code == 2 and "baselines.methods.mine: " in said.err and "teis" in said.err
    said = command(
        "check", "+experiment=quickstart", *SMALL, "+baselines.methods.mine={name: ties, genes: {density: 7}}"
    )
    assert said.code == 2 and "baselines.methods.mine: " in said.err and "density 0.05 to 1" in said.err
    said = command("check", "+experiment=quickstart", *SMALL, "+baselines.recipes.mine=absent.yaml")
    assert said.code == 2 and "baselines.recipes.mine: absent.yaml: no such file" in said.err


def test_the_ray_preset_builds_where_there_are_cores(command: Command) -> None:
    assert command("check", "+experiment=quickstart", *SMALL, "pool=ray", "pool.workers=1").code == 0


def test_the_defaults_name_a_preset_of_every_group() -> None:
    defaults = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    chosen = {key for entry in defaults if isinstance(entry, dict) for key in entry if not key.startswith("override")}
    assert chosen == {choice.partition("=")[0] for choice in GROUPS}


def test_presets_are_the_files_of_their_rooms() -> None:
    from evomerge import optimizers
    from evomerge.workers import pools

    for group, names in (("optimizer", optimizers.names()), ("pool", pools.names())):
        assert {path.stem for path in (CONF / group).glob("*.yaml")} == set(names)


def test_a_users_experiment_is_found_and_may_build_on_ours(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [quickstart]\nbudget: {evaluations: 7}\nspace: {schedule: all}\n"
    )
    said = command("check", "+experiment=mine", *SMALL[:2])
    assert said.code == 0, said
    assert "7 evaluations" in said.out and "3 dimensions" in said.out and "runs/mine" in said.out


def test_a_users_conf_elsewhere_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "settings" / "experiment"
    folder.mkdir(parents=True)
    (folder / "other.yaml").write_text("# @package _global_\ndefaults: [quickstart]\nbudget: {evaluations: 5}\n")
    monkeypatch.setenv("EVOMERGE_CONF", str(tmp_path / "settings"))
    (tmp_path / "elsewhere").mkdir()
    said = evomerge("check", "+experiment=other", *SMALL[:2], cwd=tmp_path / "elsewhere")
    assert said.code == 0 and "5 evaluations" in said.out, said


@pytest.mark.sampled(1)
@pytest.mark.parametrize("preset", [name for name in GROUPS if name.startswith("space=") and name != "space=flow"])
def test_every_space_can_search_for_subsets(preset: str, command: Command) -> None:
    """The key stands in every preset, so that it is set without a plus."""
    said = command("check", "+experiment=quickstart", *SMALL, preset, "space.subset=true")
    assert said.code == 0 and "takes_part.shift" in said.out, said


def test_the_model_keys_are_those_of_the_code() -> None:
    from dataclasses import fields

    from evomerge.workers.model_config import ModelConfig

    shown = yaml.safe_load((CONF / "config.yaml").read_text())["model"]
    assert list(shown) == [entry.name for entry in fields(ModelConfig)]
    assert shown == {entry.name: entry.default for entry in fields(ModelConfig)}


def test_a_preset_replaces_a_section_of_an_experiment_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    family, data = QUICKSTART / "family", QUICKSTART / "data" / "last.jsonl"
    given = {
        "base": str(family / "base"),
        "experts": {"last": str(family / "last")},
        "scorer": {"slices": {"search": 8, "select": 8, "holdout": 8}, "tasks": [{"name": "t", "file": str(data)}]},
        "rules": {"name": "ours", "hours": 9.0, "max_billions": 1.0},
    }
    path.write_text(yaml.safe_dump(given))
    config, _ = experiment_of_file(path, ["rules=lmc2024", "rules.public=false", "seed=7"], tmp_path / "run")
    assert config["rules"]["max_billions"] == 8.05 and config["rules"]["public"] is False and config["seed"] == 7
    with pytest.raises(ConfigError, match=r"rules=lmc2025: no such choice"):
        experiment_of_file(path, ["rules=lmc2025"], tmp_path / "run")


@pytest.mark.parametrize("text", ["017", "1_000", "1:30", "0x1F"])
def test_a_number_that_another_reader_would_change_is_refused(text: str, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: owner/base\nexperts: {math: owner/math}\nscorer: {tasks: [x]}\n")
    with pytest.raises(ConfigError, match=f"^seed={text}: give a whole number"):
        experiment_of_file(path, [f"seed={text}"], tmp_path / "run")
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        f"# @package _global_\ndefaults: [quickstart]\nseed: {text}\n"
    )
    line = command("check", "+experiment=mine").refused(2)
    assert f"mine.yaml: {text}: write the number in decimal digits" in line


def test_a_small_number_without_a_point_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: a/b\nexperts: {c: a/c}\nscorer: {tasks: [x]}\nfinalise: {radius: 1e-2}\n")
    config, _ = experiment_of_file(path, ["budget.hours=5e-1"], tmp_path / "run")
    assert config["finalise"]["radius"] == 0.01 and config["budget"]["hours"] == 0.5


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("seed: 017", "017: write the number in decimal digits"),
        ("race: {margin: 1e-400}", "1e-400"),
        ("seed: 3\nseed: 4", "seed"),
        ("seed: !!int 3", "line 2"),
    ],
)
def test_a_file_that_the_defaults_of_another_name_is_read_too(
    base: str, said: str, tmp_path: Path, command: Command
) -> None:
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "basis.v1.yaml").write_text(f"# @package _global_\n{base}\n")
    (folder / "derived.yaml").write_text("# @package _global_\ndefaults: [quickstart, basis.v1, _self_]\n")
    for chosen in ("+experiment=derived", "+experiment=[quickstart,basis.v1]"):
        line = command("check", chosen, "name=x").refused(2)
        assert "basis.v1.yaml" in line and said in line


@pytest.mark.parametrize(
    "text", ["seed=1_000", "budget={evaluations: 1_0}", "race.margin=1e-400", "budget.hours=1e400"]
)
def test_an_override_that_hydra_would_change_is_refused(text: str, command: Command) -> None:
    assert "write the number in decimal digits" in command("check", "+experiment=quickstart", text).refused(2)


@pytest.mark.parametrize(
    "text", ["name=v1_0", "name='1_000'", "race.margin=0.0", "race.margin=1e-3", "init=[runs/1_0]"]
)
def test_an_override_with_digits_of_another_kind_is_not(text: str) -> None:
    refuse_changed_override(text)


def test_a_file_in_another_encoding_is_one_line(tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "latin.yaml").write_bytes("# @package _global_\nname: café\n".encode("latin-1"))
    assert "not UTF-8" in command("check", "+experiment=latin").refused(2)
