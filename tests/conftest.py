"""The command line in this process, and one finished run of the real quickstart family that many tests read."""

import contextlib
import functools
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: one thread for each worker
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.sampling import keep_part, mark_the_rest_slow, part

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "experiments" / "quickstart"
SMALL = (
    "scorer.slices={search: 8, select: 8, holdout: 16}",
    "scorer.chunk_items=16",
    "budget.evaluations=32",
    "finalise={top: 5, simplify: 0, cloud: 0}",
)
ITEMS = 32  # of each task, in the three slices together


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    def refused(self, code: int) -> str:
        """The one line of a refusal."""
        assert self.code == code, self
        assert "Traceback" not in self.err and self.err.count("\n") == 1, self.err
        assert self.err.startswith("evomerge: ")
        return self.err


Command = Callable[..., Said]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", type=part, help="K/N: run one of N equal parts of the selected tests, such as 1/3")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    mark_the_rest_slow(items)
    yield  # pytest selects by mark
    if config.option.part:
        keep_part(config, items)


def evomerge(*arguments: str, cwd: Path) -> Said:
    """`python -m evomerge` without a new process; an exception that is no exit fails the test, as a traceback would."""
    from evomerge.cli import main

    out, err, argv, code = io.StringIO(), io.StringIO(), sys.argv, 0
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = argv
    return Said(code, out.getvalue(), err.getvalue())


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run a command in an empty folder."""
    return lambda *arguments, cwd=tmp_path: evomerge(*arguments, cwd=cwd)


@pytest.fixture(scope="session", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test may reach a hub or the user's cache."""
    old = {name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "HYDRA_FULL_ERROR", "EVOMERGE_CACHE")}
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["EVOMERGE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    for name, value in old.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="session", autouse=True)
def quick_lm_eval() -> Iterator[None]:
    """lm-eval compiles a template once, not for each document, and does not run `pip list` at every evaluation."""
    from lm_eval import utils
    from torch.utils import collect_env

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils.env, "from_string", functools.cache(utils.env.from_string))
        patch.setattr(collect_env, "get_pip_packages", lambda *_: ("pip", ""))
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_hydra() -> Iterator[None]:
    """Hydra composes a configuration once, not a first time to read the one key that says whether it is a sweep."""
    from hydra._internal.hydra import Hydra

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder of a small quickstart; read it, do not change it."""
    cwd = tmp_path_factory.mktemp("finished")
    said = evomerge("+experiment=quickstart", *SMALL, cwd=cwd)
    assert said.code == 0, said
    return cwd / "runs" / "quickstart"


def make_project(folder: Path) -> None:
    """A user's folder: own copies of the quickstart's files, and ./conf/experiment/mine.yaml with relative paths."""
    shutil.copytree(QUICKSTART / "family", folder / "family")
    shutil.copytree(QUICKSTART / "data", folder / "data")
    text = (ROOT / "conf" / "experiment" / "quickstart.yaml").read_text()
    text = text.replace("${home:experiments/quickstart/family}", "family")
    text = text.replace("${home:experiments/quickstart/data}", "data")
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "mine.yaml").write_text(text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder to break things in; nothing has run there yet."""
    make_project(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def _mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    make_project(folder)
    said = evomerge("+experiment=mine", *SMALL, cwd=folder)
    assert said.code == 0, said
    return folder


@pytest.fixture
def mine(_mine: Path, tmp_path: Path) -> Path:
    """A copy of a user's folder in which +experiment=mine is finished, at runs/mine."""
    return Path(shutil.copytree(_mine, tmp_path / "mine"))
