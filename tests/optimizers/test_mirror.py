"""The mirror: Optuna reads back what was told, a resumed search adds nothing twice, trouble ends the mirror only."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from evomerge.errors import ConfigError
from evomerge.optimizers import Coordinate, create

COORDINATES = (Coordinate("method", 2, ordered=False), Coordinate("weight.math.layers"))


def searched(path: Path, generations: int = 3, shift: float = 0.0) -> list[tuple[list[float], float]]:
    optimizer = create("cma", COORDINATES, [np.array([0.25, 0.5])], 1, {"population": 4, "mirror": str(path)})
    found = []
    for _ in range(generations):
        vectors = optimizer.ask()
        losses = [math.inf if v[1] > 0.6 else float((v[1] - 0.3) ** 2) + shift for v in vectors]
        optimizer.tell(vectors, losses)
        found += [(v.tolist(), loss) for v, loss in zip(vectors, losses, strict=True)]
    return found


def trials(path: Path) -> list[Any]:
    storage = JournalStorage(JournalFileBackend(str(path)))
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    return study.trials


def test_trials_bear_the_genes_names_their_scores_and_their_state(tmp_path: Path) -> None:
    found = searched(tmp_path / "new" / "optuna.log", 8)
    written = trials(tmp_path / "new" / "optuna.log")
    assert len(written) == len(found)
    for trial, (vector, loss) in zip(written, found, strict=True):
        assert trial.params == {"method": int(vector[0] * 2), "weight.math.layers": vector[1]}
        assert trial.state.name == ("COMPLETE" if math.isfinite(loss) else "FAIL")
        assert trial.values is None or trial.values == [-loss]
    assert {trial.state.name for trial in written} == {"COMPLETE", "FAIL"}


def test_a_resumed_search_adds_what_is_new(tmp_path: Path) -> None:
    searched(tmp_path / "optuna.log", 3)
    whole = searched(tmp_path / "optuna.log", 5)
    assert len(trials(tmp_path / "optuna.log")) == len(whole)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-7], lambda data: data[:9] + b"\xff" + data[10:], lambda _: b"x"]
)
def test_a_damaged_journal_is_written_anew(damage: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "optuna.log"
    searched(path, 3)
    path.write_bytes(damaged := damage(path.read_bytes()))
    whole = searched(path, 5)
    assert [trial.values for trial in trials(path)] == [[-loss] if math.isfinite(loss) else None for _, loss in whole]
    assert (tmp_path / "optuna.log.damaged").read_bytes() == damaged
    assert caplog.messages == [f"optimizer.mirror: {path}: damaged, kept as optuna.log.damaged, and written anew"]


def test_another_searchs_journal_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    count = len(searched(tmp_path / "optuna.log", 3))
    searched(tmp_path / "optuna.log", 4, shift=0.5)
    assert len(trials(tmp_path / "optuna.log")) == count
    (line,) = caplog.messages
    assert line.startswith("optimizer.mirror: ") and "another search; give another path" in line


def test_a_search_goes_on_where_its_mirror_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "held").write_text("no journal")
    assert searched(tmp_path / "held") == searched(tmp_path / "other.log")
    assert len(caplog.messages) == 1 and "\n" not in caplog.messages[0]


def test_a_mirror_is_a_path_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for given, text in ((True, "=true: give a path"), (str(tmp_path / "file" / "log"), ": .*/log: Not a directory")):
        with pytest.raises(ConfigError, match=rf"^optimizer\.mirror{text}"):
            create("random", COORDINATES, [], 1, {"mirror": given})
    create("random", COORDINATES, [], 1, {"mirror": str(tmp_path / "new" / "log")})
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing is left behind"


def test_an_optimizer_that_proposes_nothing_has_no_mirror(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^optimizer\.mirror: optimizer=slope proposes no candidates"):
        create("slope", COORDINATES, [], 1, {"mirror": str(tmp_path / "log")})
    create("cma", COORDINATES, [], 1, {"mirror": str(tmp_path / "log"), "start": "slope"})
    create("slope", COORDINATES, [], 1, {"mirror": None})
