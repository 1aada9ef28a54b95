"""The page of all commands, from the descriptions of the program's parser."""

import argparse
from collections.abc import Iterator

from evomerge.cli.parser import command_parsers, quick_parser

HEAD = """# Commands

`evomerge` and `python -m evomerge` are the same program. A line without a command that names models and tasks is
`evomerge BASE EXPERT…`; any other line without a command is `evomerge search`. `evomerge COMMAND --help` prints the
same as this page, which is written by `make reference` from the program itself.

The exit code is 0 for success, 1 for a negative answer (a value that differs, an error of the audit) or a failure, and
2 for a mistake in the line or the configuration.
"""


def commands_page() -> str:
    """The Markdown text of docs/reference/commands.md."""
    _, parsers = command_parsers()
    sections = [_section("evomerge BASE EXPERT…", quick_parser())]
    sections += [_section(f"evomerge {name}", parser) for name, parser in parsers.items()]
    return "\n".join([HEAD, *sections])


def _section(title: str, parser: argparse.ArgumentParser) -> str:
    rows = "\n".join(_rows(parser))
    return f"## {title}\n\n{parser.description}\n\n| argument | meaning |\n|---|---|\n{rows}\n"


def _rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            yield f"| {_spelling(action)} | {_cell(action.help or '')} |"


def _spelling(action: argparse.Action) -> str:
    """How the argument is written: `--hours H`, `EXPERT …`."""
    value = action.metavar or "|".join(action.choices or ()) or action.dest.upper()
    value = f"{value} …" if action.nargs in ("*", "+") else str(value)
    if not action.option_strings:
        return f"`{_cell(value)}`"
    names = ", ".join(action.option_strings)
    return f"`{_cell(names if action.nargs == 0 else f'{names} {value}')}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
