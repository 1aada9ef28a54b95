"""Command lines: a command works, or one line says why not; nothing is written outside of the folders that it names."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.cli.compose import experiment_of_file
from tests.conftest import evomerge
from tests.fuzz.budget import INPUTS, inputs
from tests.fuzz.outcomes import REFUSED, files_of, outcome
from tests.fuzz.readings import says, texts_of
from tests.fuzz.test_configurations import FILE
from tests.fuzz.values import NUMERALS
from tests.mutations import WORDS
from tests.report.conftest import write_run

LINES = (
    "ledger runs/x", "report runs/x", "report runs/x runs/y", "report runs/x --figures", "replay nowhere",
    "merge absent.yaml out --adapter --rank 4", "merge absent.yaml out --format gguf:Q4_K", "score absent.yaml tasks=x",
    "submit nowhere out.tar inputs.csv --predict kit --max-gen-len 8", "init base expert --tasks x --hours 0.5",
    "screen ./base ./expert --tasks x --seed 3", "./base ./expert --for questions.csv --most 4 --out runs/q",
    "check experiment.yaml seed=3 budget.hours=0.5 --out runs/z", "--version", "help", "merge --help", "nonsense",
)  # fmt: skip
TOKENS = st.one_of(
    NUMERALS,
    st.sampled_from([word for word in WORDS if "\0" not in word and "\ud800" not in word]),
    st.sampled_from(["--out", "--hours", "--items=nan", "--seed=1e3", "--most=-1", "--rules=none", "--", "-"]),
    st.sampled_from(["seed=1_000", "seed=017", "budget.hours=1:30", "model={batch_size: 1_6}", "=", "a=", "runs/x"]),
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The working directory, with two runs and an experiment file."""
    with contextlib.chdir(tmp_path_factory.mktemp("arguments")):
        for name in "xy":
            write_run(Path("runs") / name)
        Path("experiment.yaml").write_text(FILE.replace("owner/", "./"))
        Path("questions.csv").write_text("question,answer\n" + "".join(f"What is {n}?,{n}\n" for n in range(40)))
        yield


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command line with one or two arguments left out, added or replaced, but its command."""
    first, *rest = draw(st.sampled_from(LINES)).split(" ") if draw(st.integers(0, 9)) else [draw(TOKENS)]
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(rest)))
        rest[place : place + draw(st.integers(0, 1))] = draw(st.lists(TOKENS, max_size=2))
    return [first, *rest]


@given(command_lines().filter(lambda line: not line[0].startswith(("+", "-"))))
@inputs(25)
def test_a_command_line_is_followed_or_refused(line: list[str]) -> None:
    before = files_of(Path())
    INPUTS["command line"] += 1
    said = evomerge(*line, cwd=Path())
    assert said.code in (0, 1, 2), said
    if said.code:
        assert said.err.startswith("evomerge: ") and len(said.err) < 5000 and "Traceback" not in said.err, said
    after = files_of(Path())
    assert all(after.get(name) == data for name, data in before.items() if not name.endswith("report.html"))


@given(NUMERALS, st.sampled_from(["seed", "budget.hours", "space.genes.density.low", "scorer.tasks"]))
@inputs(60)
def test_an_override_says_the_number_of_its_text(numeral: str, key: str) -> None:
    given = outcome(
        "override", lambda: experiment_of_file(Path("experiment.yaml"), [f"{key}={numeral}"], Path("runs/z"))
    )
    if given is not REFUSED and numeral.isascii() and numeral.strip() and "<<" not in numeral:
        value = given[0]
        for part in key.split("."):
            value = value[part]
        assert says(texts_of(numeral), value), (key, numeral, value)
