"""Several runs side by side, such as those of a sweep: what differs between them, and what each has found."""

import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from evomerge.errors import RunError
from evomerge.paths import CONFIG, LEDGER, RESULT
from evomerge.report.html_elements import Grid
from evomerge.report.reproduce_section import shorten_paths
from evomerge.report.table import format_difference, format_score, standing_row
from evomerge.run_files import read_config_file, read_result, refuse_misfits
from evomerge.schema import as_yaml
from evomerge.terminal import duration

SEED = "seed"
NOT_COMPARED = ("name", "pool", "tracker", "submission", "rules")  # sections without influence on a score
RIGHT = ("candidates", "time")  # columns of numbers
MOST_COLUMNS, LONGEST = 5, 30  # keys in the table, and characters of a value in it; the others are named below it


@dataclass(frozen=True)
class RunSummary:
    """A run's folder with its configuration as dotted keys, and its result; None for a run that has not finished."""

    folder: Path
    settings: Mapping[str, Any]
    result: Mapping[str, Any] | None

    @property
    def holdout(self) -> float:
        """The winner's score on holdout; NaN if there is none."""
        score = self.result["rows"][-1]["scores"]["holdout"] if self.result else None
        return math.nan if score is None else float(score)

    @property
    def ahead(self) -> float:
        """How much better than the best baseline the winner is on holdout."""
        return float(self.result["difference"]) if self.result else math.nan

    @property
    def outcome(self) -> str:
        """The verdict against the best baseline, or that the run has not finished."""
        if self.result is None:
            return "not finished"
        verdict = "no new merge" if standing_row(self.result) else str(self.result["verdict"])
        routers = self.result.get("routers") or {}
        return verdict + (", routers calibrated" if routers.get("kept") else "")


@dataclass(frozen=True)
class RunComparison:
    """Runs, and the dotted keys of the configuration in which they differ: those in the table, and others."""

    runs: tuple[RunSummary, ...]
    keys: tuple[str, ...]
    others: tuple[str, ...] = ()

    def grids(self) -> Iterator[tuple[str, Grid]]:
        """Title and table: a row for each run; then, if seeds differ, a row for each setting with means over seeds."""
        yield f"{len(self.runs)} runs", self._all_runs()
        if SEED in self.keys and len(self._groups()) < len(self.runs):
            yield "means over seeds, ± the standard deviation of a run", self._by_setting()

    def tables(self) -> Iterator[Table]:
        """The same tables for a terminal."""
        for title, grid in self.grids():
            table = Table(title=title, title_justify="left")
            for head in grid.heads:
                table.add_column(head, overflow="fold", justify="right" if head in RIGHT else "left")
            for row in grid.rows:
                table.add_row(*row)
            yield table

    def names(self) -> list[str]:
        """The folder of each run below the folder that all are in."""
        parent = Path(os.path.commonpath([run.folder.resolve().parent for run in self.runs]))
        return [str(run.folder.resolve().relative_to(parent)) for run in self.runs]

    def warnings(self) -> Iterator[str]:
        """A sentence where scores cannot be compared."""
        tasks = {tuple(run.result["rows"][-1]["tasks"]) for run in self.runs if run.result}
        if len(tasks) > 1:
            yield "The runs have different tasks, so their scores cannot be compared."
        elif any(key.startswith("scorer.") for key in (*self.keys, *self.others)):
            yield "The runs differ in scorer and may have different items: compare differences, not scores."
        if self.others:
            yield f"They also differ in {', '.join(self.others)}: see each config.yaml."

    def _all_runs(self) -> Grid:
        heads = ("run", *self.keys, "winner on holdout", "best baseline", "winner ahead by", "verdict", *RIGHT)
        rows = [
            (name, *(shorten_paths(_text(run.settings.get(key))) for key in self.keys), *_result_cells(run))
            for name, run in zip(self.names(), self.runs, strict=True)
        ]
        return Grid(heads, rows)

    def _by_setting(self) -> Grid:
        keys = [key for key in self.keys if key != SEED]
        rows = []
        for values, runs in self._groups().items():
            outcomes = [run.outcome for run in runs]
            counts = ", ".join(f"{outcomes.count(name)} {name}" for name in dict.fromkeys(outcomes))
            spread = (_mean([run.holdout for run in runs]), _mean([run.ahead for run in runs], "+"))
            rows.append((*map(shorten_paths, values[: len(keys)]), str(len(runs)), *spread, counts))
        return Grid((*keys, "runs", "winner on holdout", "winner ahead by", "verdicts"), rows)

    def _groups(self) -> dict[tuple[str, ...], list[RunSummary]]:
        """The values of all differing keys but the seed, those of the table first → their runs."""
        keys = [key for key in (*self.keys, *self.others) if key != SEED]
        groups: dict[tuple[str, ...], list[RunSummary]] = {}
        for run in self.runs:
            groups.setdefault(tuple(_text(run.settings.get(key)) for key in keys), []).append(run)
        return groups


def compare_runs(folders: Sequence[Path]) -> RunComparison:
    """The runs in these folders, and in the folders below them; RunError if one holds no run."""
    runs = tuple(_read(folder) for given in folders for folder in _run_folders(given))
    keys = dict.fromkeys(key for run in runs for key in run.settings if key.partition(".")[0] not in NOT_COMPARED)
    texts = {key: {_text(run.settings.get(key)) for run in runs} for key in keys}
    differing = [key for key, values in texts.items() if len(values) > 1]
    # Where optimizers differ by name, their other settings differ by themselves.
    named = {key.partition(".")[0] for key in differing if key.endswith(".name")}
    kept = [key for key in differing if key.endswith(".name") or key.partition(".")[0] not in named]
    short = [key for key in kept if max(map(len, texts[key])) <= LONGEST]
    chosen = {SEED, *[key for key in short if key != SEED][: MOST_COLUMNS - 1]}
    shown = [key for key in short if key in chosen]
    return RunComparison(runs, tuple(shown), tuple(key for key in kept if key not in shown))


def _run_folders(folder: Path) -> list[Path]:
    if (folder / CONFIG).is_file():
        return [folder]
    found = sorted(path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{CONFIG}"))
    if not found:
        raise RunError(f"{folder}: neither a run nor a folder of runs; give the folder that a search has written")
    return found


def _read(folder: Path) -> RunSummary:
    config = read_config_file(folder)
    result = read_result(folder) if (folder / RESULT).is_file() else None
    found = RunSummary(folder, dict(_flattened(config)), result)
    if result is not None:
        with refuse_misfits(folder):  # what the tables show
            _ = _result_cells(found), found.holdout, found.ahead, result["rows"][-1]["tasks"]
    return found


def _flattened(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _result_cells(run: RunSummary) -> tuple[str, ...]:
    if run.result is None:
        started = "begun" if (run.folder / LEDGER).is_file() else "not begun"
        return "", "", "", f"not finished: {started}", "", ""
    best = run.result["best_baseline"]
    baseline = next((row["scores"]["holdout"] for row in run.result["rows"] if row["label"] == best), None)
    seconds = run.result["seconds"]
    spent = seconds.get("this_time", 0.0) + seconds.get("earlier_commands", 0.0)
    return (
        format_score(run.result["rows"][-1]["scores"]["holdout"]),
        f"{best} {format_score(baseline)}",
        format_difference(run.result),
        run.outcome,
        str(run.result["counts"]["candidates"]),
        duration(spent),
    )


def _mean(values: Sequence[float], sign: str = "") -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "none"
    spread = f" ± {statistics.stdev(known):.4f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):{sign}.4f}{spread}"


def _text(value: Any) -> str:
    return "–" if value is None else as_yaml(value)
