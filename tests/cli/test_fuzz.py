"""Whatever a configuration holds, `check` says one line about it, at once."""

import os
import time
from pathlib import Path
from random import Random

import pytest

from evomerge.errors import EvomergeError
from evomerge.experiment.preview import describe
from evomerge.experiment.resume import refuse_changed
from tests.mutations import mutated, sound

SECONDS = 30.0  # on a busy machine, the index of lm-eval's tasks included
FAST, SLOW = 60, 2000
MORE = int(os.environ.get("EVOMERGE_FUZZ", "1"))  # seeds of the long one


def answers(seed: int, count: int, folder: Path) -> int:
    """How many of so many mutations are refused, each in one short line and in time."""
    config, refused = sound(folder), 0
    for number in range(count):
        changed, _, what = mutated(config, Random(f"{seed}/{number}"))
        begun = time.monotonic()
        try:
            refuse_changed(changed, folder / "run")
            list(describe(changed, folder / "run"))
        except EvomergeError as error:
            said, refused = str(error), refused + 1
            assert said and "\n" not in said and len(said) < 1500, f"{seed}/{number}: {what}: {said}"
        except Exception as error:
            raise AssertionError(f"{seed}/{number}: {what}") from error
        assert time.monotonic() - begun < SECONDS, f"{seed}/{number}: {what}"
    return refused


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what is said of relative paths means an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_configuration_that_is_mutated_is_sound(folder: Path) -> None:
    assert list(describe(sound(folder), folder / "run"))[-1].endswith("new")


def test_a_mutated_configuration_is_one_line(folder: Path) -> None:
    assert answers(0, FAST, folder) > FAST / 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 1 + MORE))
def test_many_mutated_configurations_are_one_line_each(folder: Path, seed: int) -> None:
    """`EVOMERGE_FUZZ=20` tries twenty seeds."""
    assert answers(seed, SLOW, folder) > SLOW / 2


WRONG = [
    ("optimizer", None, "optimizer=null: give a mapping"),
    ("race", None, "race=null: give a mapping"),
    ("method", {}, "method.name: missing; give a text"),
    ("space.genes", {1: 2}, "space.genes: the key 1 is no text; write it in quotes"),
    ("space.genes.density.high", float("inf"), "space.genes.density.high=inf: give a number"),
    ("space.genes.density.low", -1e308, "space.genes.density.low=-1e+308: give a number at least -1000000.0"),
    ("method.0.settings.normalize", 3, "method.settings.normalize=3: give true or false"),
    ("budget.hours", float("nan"), "budget.hours=nan: give a number"),
    ("race.margin", float("nan"), "race.margin=nan: give a number"),
    ("seed", 2**70, "seed=1180591620717411303424: give a whole number at least 0, at most 4294967295"),
    ("pool.threads", 10**9, "pool.threads=1000000000: give a whole number at least 1, at most 1024 or null"),
    ("pool", {"name": "ray", "num_gpus": float("inf")}, "pool.num_gpus=inf: give a number"),
    ("pool", {"name": "ray", "num_cpus": float("nan")}, "pool.num_cpus=nan: give a number"),
    ("optimizer", {"name": "sobol", "population": 2**63}, "optimizer.population=9223372036854775808: give"),
    ("optimizer.mirror", "/dev/null/log", "optimizer.mirror: /dev/null/log: Not a directory; give the path"),
    (
        "model.attn_implementation",
        "nonsense",
        'attn_implementation=nonsense: Specified `attn_implementation="nonsense"`',
    ),
    ("model.device", "mps", "model.device=mps: give auto, cpu, cuda or cuda:N"),
    ("name", None, "name=null: give a text"),
    ("scorer.tasks.0.spec", None, "scorer.tasks.0.spec is empty; drop it where lm-eval has the task"),
    ("scorer.tasks.0.spec.metric_list", [], "task 'copy': its metric_list is empty"),
    ("scorer.tasks.0.spec.metric_list.0.higher_is_better", "no", "higher_is_better=no of metric 'acc': give true or"),
    ("scorer.tasks.0.spec.doc_to_target", "{{[gold]}}", "task 'copy': doc_to_target is a list of one"),
    (
        "scorer.tasks.0.spec.doc_to_target",
        "{{gold + 99}}",
        "check that doc_to_target is the number or text of a choice",
    ),
    ("scorer.tasks.0.spec.doc_to_target", "query", "task 'copy': doc_to_target names none of the choices"),
    ("scorer.tasks.0.weight", float("inf"), "scorer.tasks.0.weight=inf: give a number"),
    ("scorer.slices.search", True, "scorer.slices.search=true: give a whole number"),
    ("experts", {"": "x"}, "experts: the key '''' will not do; give a name of one line"),
]


@pytest.mark.parametrize(("place", "value", "line"), WRONG, ids=[f"{place}={value}"[:60] for place, value, _ in WRONG])
def test_what_is_wrong_is_named_by_its_key(folder: Path, place: str, value: object, line: str) -> None:
    config = sound(folder)
    *parents, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    section: object = config
    for key in parents:
        section = section[key]  # type: ignore[index]
    section[last] = value  # type: ignore[index]
    with pytest.raises(EvomergeError) as error:
        list(describe(config, folder / "run"))
    assert line in str(error.value) and "\n" not in str(error.value)


def test_more_tokens_at_a_time_than_there_are_take_no_longer(folder: Path) -> None:
    config = sound(folder)
    config["model"]["batch_tokens"] = 10**9
    begun = time.monotonic()
    assert list(describe(config, folder / "run"))
    assert time.monotonic() - begun < SECONDS
