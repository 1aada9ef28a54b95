"""What each sub-command does with its arguments; returns the exit code. Rooms are imported when a command runs."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from evomerge.atomic import write_atomically
from evomerge.errors import ConfigError
from evomerge.paths import refuse_unfinished
from evomerge.recipes import load_recipe

DEEP = "--deep"  # an option of `check`, which Hydra does not know


def search(overrides: Sequence[str], console: Console) -> int:
    """Run the search, or the sweep, that Hydra composes."""
    from evomerge.cli.compose import for_each_job

    def run(config: dict[str, Any], folder: Path) -> None:
        from evomerge.experiment import run_experiment

        run_experiment(config, folder, console)

    return for_each_job(overrides, run)


def check(overrides: Sequence[str], console: Console) -> int:
    """Print what the search would do; with --deep, read the models too and print the audit.

    The exit code is 1 if the audit has an error, because every candidate would have it; warnings do not change it.
    """
    from evomerge.cli.compose import for_each_job

    def show(config: dict[str, Any], folder: Path) -> None:
        from evomerge.experiment import audit_experiment, describe

        for line in describe(config, folder):
            _write(console, line)
        if DEEP in overrides:
            audit = audit_experiment(config)
            for line in audit.lines():
                _write(console, line)
            audit.refuse_errors()

    return for_each_job([text for text in overrides if text != DEEP], show)


def merge(arguments: argparse.Namespace, console: Console) -> int:
    """Build a checkpoint folder or an adapter, and print its fingerprint or its rank."""
    if arguments.rank is not None and not arguments.adapter:
        raise ConfigError(f"--rank {arguments.rank}: only an adapter has one; add --adapter")
    if not arguments.recipe.is_file():
        load_recipe(arguments.recipe)  # raises, without transformers
    from evomerge.export import merge_adapter, merge_recipe

    recipe, out, trust = arguments.recipe, arguments.out, arguments.trust_remote_code
    if arguments.adapter:
        made = str(merge_adapter(recipe, out, rank=arguments.rank, trust_remote_code=trust))
    else:
        made = f"fingerprint {merge_recipe(recipe, out, trust_remote_code=trust)}"
    _write(console, f"{out}: {made}")
    return 0


def score(arguments: argparse.Namespace, console: Console) -> int:
    """Print lm-eval's table."""
    wrong = next((text for text in arguments.settings if not re.match(r"[a-z_]\w*=", text)), None)
    if "=" in arguments.model or wrong:
        raise ConfigError(f"score: {wrong or 'no model'}: give a folder, a hub id or a recipe, then key=value")
    from evomerge.cli.compose import plain_settings
    from evomerge.experiment import read_score_config

    settings = plain_settings(arguments.settings)
    read_score_config(settings)  # a misspelt key is reported before torch is imported
    if arguments.model.endswith((".yaml", ".yml")) and not Path(arguments.model).is_file():
        raise ConfigError(f"{arguments.model}: no such file")
    from evomerge.experiment import score_model

    evaluation = score_model(arguments.model, settings, Console(stderr=True))
    for table in evaluation.tables():  # printed first: a full disk must not cost the scores
        _write(console, table)
    if settings.get("out"):
        write_atomically(Path(settings["out"]), evaluation.text())
    return 0


def replay(arguments: argparse.Namespace, console: Console) -> int:
    """Print whether fingerprint and scores are those that were recorded."""
    from evomerge.experiment import replay_run

    refuse_unfinished(arguments.folder)
    same = True
    for value in replay_run(arguments.folder):
        _write(console, str(value))
        same &= value.same
    return 0 if same else 1


def report(arguments: argparse.Namespace, console: Console) -> int:
    """Write the report and the figures, and print their paths."""
    from evomerge.report import save_figures, write_report

    refuse_unfinished(arguments.folder)
    report = write_report(arguments.folder)
    figures = save_figures(arguments.folder, arguments.figures) if arguments.figures else []
    for path in (report, *figures):
        _write(console, str(path))
    return 0


def _write(console: Console, text: str) -> None:
    """Write a line as it is: rich would take brackets in a path for markup, and break long lines."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
