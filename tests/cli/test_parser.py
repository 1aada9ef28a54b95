"""The parser: help for every sub-command and argument, one line for what it cannot parse."""

from pathlib import Path

import pytest

from evomerge.cli.parser import COMPOSED, command_parsers
from evomerge.version import __version__
from tests.conftest import Command

_, PARSERS = command_parsers()
NAMES = list(PARSERS)


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_has_a_line_of_help(name: str, command: Command) -> None:
    said = command(name, "--help")
    assert said.code == 0 and not said.err
    assert said.out.startswith(f"usage: evomerge {name}")
    for action in PARSERS[name]._actions:
        assert action.help and action.help[:30] in " ".join(said.out.split())


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_the_program_lists_every_command(name: str, command: Command) -> None:
    said = command("--help")
    assert said.code == 0 and f"    {name} " in said.out
    assert command("help").out == said.out == command("-h").out


def test_the_version(command: Command) -> None:
    assert command("--version").out == f"evomerge {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("merge",), "required: RECIPE.yaml, OUT_DIR; see evomerge merge --help"),
        (("merge", "a", "b", "--rnak", "3"), "unrecognized arguments: --rnak 3"),
        (("merge", "a", "b", "--rank", "many"), "--rank: invalid int value: 'many'"),
        (("merge", "a", "b", "--rank", "3"), "add --adapter"),
        (("replay",), "required: RUN_DIR"),
        (("replay", "a", "b"), "unrecognized arguments: b"),
        (("score",), "required: MODEL"),
        (("score", "tasks=a"), "no model"),
        (("score", "model", "tasks"), "tasks: give"),
    ],
)
def test_what_cannot_be_parsed_is_one_line(arguments: tuple[str, ...], text: str, command: Command) -> None:
    assert text in command(*arguments).refused(2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("check", "--experiment=quickstart"), "--experiment: unknown option"),
        (("check", "mine"), "+experiment=mine"),
        (("check", "+experiment=quickstart", "space.genes.density=0.5"), "+space.genes.density=VALUE"),
        (("merge", ".", "out"), ".: Is a directory; give a recipe file"),
        (("merge", "plain.yaml", "out"), "plain.yaml: not a merge recipe"),
        (("score", "absent.yaml", "tasks=a"), "absent.yaml: no such file"),
        (("score", "model", "task=a"), "task: unknown key (did you mean 'tasks'?)"),
        (("check", "+experiment=plain"), "# @package _global_"),
    ],
)
def test_likely_slips_are_named_with_their_remedy(
    arguments: tuple[str, ...], text: str, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "plain.yaml").write_text("base: x\n")
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "plain.yaml").write_text("base: x\nexperts: {a: y}\n")
    assert text in command(*arguments).refused(2)


def test_a_search_needs_no_name_of_a_command(command: Command) -> None:
    first = command("search", "+experiment=nope").refused(2)
    assert first == command("+experiment=nope").refused(2) and set(COMPOSED) == {"search", "check"}


def test_a_misspelt_command_is_no_model(command: Command, tmp_path: Path) -> None:
    said = command("merg", "recipe.yaml", "out")
    assert said.code == 2 and said.err.startswith("evomerge: unknown command 'merg' (did you mean 'merge'?)")
    (tmp_path / "merg").mkdir()
    assert "no task" in command("merg", "other").err  # a folder of that name is a model
