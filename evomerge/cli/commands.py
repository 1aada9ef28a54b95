"""What each sub-command does with its arguments; returns the exit code. Rooms are imported when a command runs."""

import argparse
import os
import re
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from evomerge.atomic import write_atomically
from evomerge.errors import ConfigError
from evomerge.paths import CONFIG, EXPERIMENT, LEDGER, RECIPE, RESULT, refuse_unfinished, run_name
from evomerge.recipes import load_recipe
from evomerge.terminal import print_line

if TYPE_CHECKING:
    from evomerge.autoconfig import Request

STARTED = time.monotonic()  # of the process, nearly; budget.hours counts from here
WIDE = 120  # columns of a terminal that hold the table of a screening
DEEP = "--deep"  # an option of `check`, which Hydra does not know


def search(overrides: Sequence[str], console: Console) -> int:
    """Run the search, or the sweep, that Hydra composes, or the search of an experiment file."""
    from evomerge.cli.sweep import SweptSearch, run_at_once, split_at_once

    overrides, at_once = split_at_once(overrides)
    if names_file(overrides):
        return _for_file(overrides, lambda config, folder: _run(config, folder, console, STARTED))
    from evomerge.cli.compose import for_each_job, job_overrides

    searches: list[SweptSearch] = []

    def run(config: dict[str, Any], folder: Path) -> None:
        searches.append(SweptSearch(job_overrides(), config, folder))
        if at_once == 1:  # the later runs of a sweep start when the one before has ended
            _run(config, folder, console, STARTED if len(searches) == 1 else None)

    code = for_each_job(overrides, run)
    if at_once > 1:
        code = max(code, run_at_once(searches, at_once, console))
    begun = [search.folder for search in searches if (search.folder / CONFIG).is_file()]
    if len(begun) > 1:
        _print_comparison(begun, console)
    return code


def _run(config: dict[str, Any], folder: Path, console: Console, started: float | None) -> None:
    from evomerge.experiment import run_experiment

    run_experiment(config, folder, console, started)


def quick_search(arguments: argparse.Namespace, console: Console) -> int:
    """Choose a configuration for the given models and tasks, and run it."""
    request = _request(arguments, arguments.out)
    merged = arguments.merged is not None and arguments.merged.exists()
    if merged and not (request.folder / RESULT).exists():
        raise ConfigError(f"--merged {arguments.merged}: exists already; give a new folder")
    request.refuse_other_search(request.folder / EXPERIMENT)
    from evomerge.autoconfig import run_quick

    folder = run_quick(request, console, STARTED)
    if merged:
        print_line(console, f"{arguments.merged}: exists already, and is left as it is")
    elif arguments.merged is not None:
        from evomerge.export import merge_recipe

        fingerprint = merge_recipe(folder / RECIPE, arguments.merged)
        print_line(console, f"{arguments.merged}: fingerprint {fingerprint}")
    return 0


def init(arguments: argparse.Namespace, console: Console) -> int:
    """Write the experiment file that `quick_search` would run."""
    name = arguments.name or _request(arguments, arguments.out).name
    request = _request(arguments, arguments.out or Path("runs") / run_name(name))
    path = Path(os.environ.get("EVOMERGE_CONF", "conf")) / "experiment" / f"{name}.yaml"
    if path.exists():
        raise ConfigError(f"{path}: exists already; give another --name")
    from evomerge.autoconfig import write_experiment

    for line in write_experiment(request, path):
        print_line(console, line)
    print_line(console, f"run it with: evomerge +experiment={name}")
    return 0


def screen(arguments: argparse.Namespace, console: Console) -> int:
    """Print which experts a search should merge, with the scores and cosines that speak for it."""
    request = _request(arguments, arguments.out)
    from evomerge.autoconfig import screen_quick
    from evomerge.screening import screening_lines, screening_table

    record = screen_quick(request, console)
    if console.width >= WIDE:
        console.print(screening_table(record))
    for line in screening_lines(record):
        print_line(console, line)
    return 0


def _request(arguments: argparse.Namespace, out: Path | None) -> "Request":
    """The checked request of a command line, before a large library is imported."""
    from evomerge.autoconfig import Request

    names = [name.strip() for text in arguments.tasks for name in text.split(",") if name.strip()]
    limits = {"hours": arguments.hours, "items": arguments.items}
    return Request.of(
        arguments.base,
        arguments.experts,
        [*names, *map(_as_file, arguments.files)],
        **limits,
        out=out,
        seed=arguments.seed,
        rules=arguments.rules,
        most=arguments.most,
        inputs=arguments.inputs,
    )


def _as_file(path: str) -> dict[str, str]:
    return {"file": path}


def check(overrides: Sequence[str], console: Console) -> int:
    """Print what the search would do; with --deep, read the models too and print the audit.

    The exit code is 1 if the audit has an error, because every candidate would have it; warnings do not change it.
    """
    from evomerge.cli.compose import for_each_job

    def show(config: dict[str, Any], folder: Path) -> None:
        from evomerge.experiment import audit_experiment, describe

        for line in describe(config, folder):
            print_line(console, line)
        if DEEP in overrides:
            audit = audit_experiment(config)
            for line in audit.lines():
                print_line(console, line)
            audit.refuse_errors()

    rest = [text for text in overrides if text != DEEP]
    return _for_file(rest, show) if names_file(rest) else for_each_job(rest, show)


def names_file(arguments: Sequence[str]) -> bool:
    """Whether the first argument is the path of an experiment file."""
    return bool(arguments) and "=" not in arguments[0] and arguments[0].endswith((".yaml", ".yml"))


def _for_file(arguments: Sequence[str], job: Callable[[dict[str, Any], Path], None]) -> int:
    """Run a job with the configuration of the experiment file that the first argument names."""
    from evomerge.cli.compose import experiment_of_file

    file, *rest = arguments
    out, overrides = _split_out(rest)
    job(*experiment_of_file(Path(file), overrides, out))
    return 0


def _split_out(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The value of --out, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--out", type=Path)
    try:
        known, others = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}; give --out DIR") from None
    return known.out, others


def merge(arguments: argparse.Namespace, console: Console) -> int:
    """Build a checkpoint folder or an adapter, and print its fingerprint or its rank."""
    if arguments.rank is not None and not arguments.adapter:
        raise ConfigError(f"--rank {arguments.rank}: only an adapter has one; add --adapter")
    if arguments.format and arguments.adapter:
        raise ConfigError(f"--format {arguments.format}: an adapter has no such format; leave one of the two out")
    if arguments.private and not arguments.push:
        raise ConfigError("--private: only a repository of the hub is private; add --push OWNER/NAME")
    if arguments.push and arguments.format:
        raise ConfigError(f"--push {arguments.push}: pushes a folder, not a GGUF file; leave one of the two out")
    if not arguments.recipe.is_file():
        load_recipe(arguments.recipe)  # raises, without transformers
    recipe, out = arguments.recipe, arguments.out
    if arguments.push:
        from evomerge.export import PushTarget, adapter_options, merge_and_push

        target, options = (
            PushTarget(arguments.push, arguments.private),
            adapter_options(arguments.adapter, arguments.rank),
        )
        made, address = merge_and_push(target, recipe, out, options, lambda: _merged(arguments))
        print_line(console, f"{out}: {made or 'is there already, not merged again'}\npushed: {address}")
    else:
        print_line(console, f"{out}: {_merged(arguments)}")
    if arguments.format and (recipe.parent / RESULT).is_file():
        words = shlex.quote(str(out)), shlex.quote(f"run={recipe.parent}")
        print_line(console, f"its score beside the run's: evomerge score {' '.join(words)}")
    return 0


def _merged(arguments: argparse.Namespace) -> str:
    """Merge as the arguments of `merge` say; returns the words that describe the result."""
    from evomerge.export import merge_adapter, merge_gguf, merge_recipe, parse_format

    recipe, out, trust = arguments.recipe, arguments.out, arguments.trust_remote_code
    if arguments.adapter:
        return str(merge_adapter(recipe, out, rank=arguments.rank, trust_remote_code=trust))
    if arguments.format:
        kind, checkout = parse_format(arguments.format), arguments.llama_cpp
        return f"fingerprint {merge_gguf(recipe, out, kind, llama_cpp=checkout, trust_remote_code=trust)}, as {kind}"
    return f"fingerprint {merge_recipe(recipe, out, trust_remote_code=trust)}"


def score(arguments: argparse.Namespace, console: Console) -> int:
    """Print lm-eval's table; with `run=`, the holdout score beside those that the run recorded."""
    wrong = next((text for text in arguments.settings if not re.match(r"[a-z_]\w*=", text)), None)
    if "=" in arguments.model or wrong:
        raise ConfigError(f"score: {wrong or 'no model'}: give a folder, a hub id or a recipe, then key=value")
    from evomerge.cli.compose import plain_settings
    from evomerge.experiment import read_score_config

    settings = plain_settings(arguments.settings)
    if "run" in settings:
        return _score_on_run(arguments.model, settings, console)
    read_score_config(settings)  # a misspelt key is reported before torch is imported
    if arguments.model.endswith((".yaml", ".yml")) and not Path(arguments.model).is_file():
        raise ConfigError(f"{arguments.model}: no such file")
    from evomerge.experiment import score_model

    evaluation = score_model(arguments.model, settings, Console(stderr=True))
    for table in evaluation.tables():  # printed first: a full disk must not cost the scores
        print_line(console, table)
    if settings.get("out"):
        write_atomically(Path(settings["out"]), evaluation.text())
    return 0


def _score_on_run(model: str, settings: dict[str, Any], console: Console) -> int:
    from evomerge.experiment import read_run_score_config

    config = read_run_score_config(settings)
    refuse_unfinished(Path(config.run))  # before a large library is imported
    from evomerge.experiment import score_on_run

    for line in score_on_run(model, config).lines():
        print_line(console, line)
    return 0


def replay(arguments: argparse.Namespace, console: Console) -> int:
    """Print whether fingerprint and scores are those that were recorded."""
    from evomerge.experiment import replay_run

    refuse_unfinished(arguments.folder)
    same = True
    for value in replay_run(arguments.folder):
        print_line(console, str(value))
        same &= value.same
    return 0 if same else 1


def submit(arguments: argparse.Namespace, console: Console) -> int:
    """Write the pack of a run, and print what it holds."""
    refuse_unfinished(arguments.folder)  # before a large library is imported
    from evomerge.submission import write_pack

    pack = write_pack(
        arguments.folder,
        arguments.out,
        arguments.inputs,
        predict=arguments.predict,
        name=arguments.name,
        max_gen_len=arguments.max_gen_len,
        max_seq_len=arguments.max_seq_len,
        say=lambda line: print_line(console, line),
    )
    for line in pack.lines:
        print_line(console, line)
    return 0


def ledger(arguments: argparse.Namespace, console: Console) -> int:
    """Print what a ledger holds; a line that is wrong is an error that names it."""
    from evomerge.ledger import describe_ledger

    for line in describe_ledger(arguments.folder / LEDGER):
        print_line(console, line)
    return 0


def report(arguments: argparse.Namespace, console: Console) -> int:
    """Write a run's report and figures, and print their paths; of several runs, print tables and write their page."""
    from evomerge.report import save_figures, write_report

    folder, *others = arguments.folders
    if others or not (folder / CONFIG).is_file():
        if arguments.figures:
            raise ConfigError("--figures: give the folder of one run")
        _print_comparison(arguments.folders, console, arguments.page)
        return 0
    if arguments.page:
        raise ConfigError("--page: give the folders of several runs; the page of one run is its report.html")
    refuse_unfinished(folder)
    report = write_report(folder)
    figures = save_figures(folder, arguments.figures) if arguments.figures else []
    for path in (report, *figures):
        print_line(console, str(path))
    return 0


def _print_comparison(folders: Sequence[Path], console: Console, page: Path | None = None) -> None:
    from evomerge.report import compare_runs, print_table, write_runs_page

    comparison = compare_runs(folders)
    for table in comparison.tables():
        print_table(console, table)
    for line in comparison.warnings():
        print_line(console, line)
    if page is not None:
        print_line(console, str(write_runs_page(comparison, page)))
