"""Reading a ledger without writing to it: its valid lines, its chunks and complete scores, and header comparison."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, RunError
from evomerge.ledger.differences import show_differences
from evomerge.ledger.lines import HEADER_KEYS, complete_length, read_lines
from evomerge.paths import LEDGER
from evomerge.schema import check_value
from evomerge.scoring import Chunk, CorpusMetric, Plan, task_of

DIFFERENT = {
    "config": "another configuration",
    "models": "other weights",
    "functions": "a scoring function that has changed",
    "generation": "another engine for generation",
    "chunks": "other items",
    "items": "other prompts or answers",
}


def read_trials(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and valid lines of a ledger, which another process may be writing; an incomplete last line is ignored.

    RunError if the file cannot be read or has no line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: not a readable ledger ({error.strerror}); is this a run folder?") from None
    header, lines = read_lines(path, data)
    if not header:
        raise RunError(f"{path}: empty; the search has not begun")
    return header, lines


def begun_header(folder: Path) -> dict[str, Any]:
    """The header of a run's ledger; empty for a run that has none, or whose ledger is refused when it is opened."""
    path = folder / LEDGER
    if not path.is_file():
        return {}
    try:
        return read_trials(path)[0]
    except RunError:  # a killed process may leave an empty file
        return {}


def chunks_of(header: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Chunk id → items of every slice, for the original chunks and for the regrouped ones of the search slice."""
    regrouped = [line["deal"] for line in lines if "deal" in line]
    return {**header.get("chunks", {}), **{id_: items for chunks in regrouped for id_, items in chunks.items()}}


def plan_of(header: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Plan:
    """The plan of a ledger: all chunks that its scores refer to, and the weights of their tasks."""
    if "chunks" not in header:
        raise RunError("the ledger's header lists no chunks; repeat the run's command")
    chunks: dict[str, tuple[Chunk, ...]] = {}
    grouped = chunks_of(header, lines)
    for chunk, items in grouped.items():
        name = chunk.partition("/")[0]
        chunks[name] = (*chunks.get(name, ()), Chunk(chunk, name, tuple(items)))
    for cut in (line for line in lines if "cut" in line and line.get("budget") is None):
        after = set(header["chunks"]) - {chunk.id for chunk in chunks.get(cut["cut"], ())[: cut["chunks"]]}
        chunks[cut["cut"]] = tuple(chunk for chunk in chunks.get(cut["cut"], ()) if chunk.id not in after)
    weights = _weights(header)
    generating = {task_of(item) for line in lines for item in lengths_of(line, grouped)}
    return Plan(chunks, weights, _aggregates(header), tuple(task for task in weights if task in generating))


def _weights(header: Mapping[str, Any]) -> dict[str, float]:
    """Task → its weight, from the configuration; RunError if the header has none that names tasks."""
    try:
        tasks = header["config"]["scorer"]["tasks"]
        check_value(tasks, Sequence[str | Mapping[str, Any]], "scorer.tasks")
        named = [{"name": task} if isinstance(task, str) else task for task in tasks]
        for task in named:
            check_value([task["name"], task.get("weight", 1.0)], Sequence[str | float], "scorer.tasks")
        return {str(task["name"]): float(task.get("weight", 1.0)) for task in named}
    except (KeyError, TypeError, ValueError, ConfigError):
        raise RunError("the ledger's header has no configuration with tasks; repeat the run's command") from None


def _aggregates(header: Mapping[str, Any]) -> dict[str, CorpusMetric]:
    """Task → its corpus-level metric, found by its name."""
    named = header.get("aggregates", {}).items()
    if not named:
        return {}
    from evomerge.scoring.tasks import find_aggregate  # it imports lm-eval

    return {task: find_aggregate(one["name"], one["sign"], f"task '{task}': aggregate") for task, one in named}


def lengths_of(line: Mapping[str, Any], chunks: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Item → the length of its answers in tokens, of one line of scores."""
    pairs = zip(chunks[line["chunk"]], line["tokens"], strict=True) if "tokens" in line else ()
    return {item: length for item, length in pairs if length is not None}


def complete_scores(plan: Plan, lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Key → item → score, for every recipe that is scored on all items of the search slice, in any grouping."""
    chunks = {chunk.id: chunk.items for chunk in plan.chunks["search"]}
    scores: dict[str, dict[str, Any]] = {}
    for line in lines:
        if line.get("chunk") in chunks and "scores" in line:
            scores.setdefault(line["key"], {}).update(zip(chunks[line["chunk"]], line["scores"], strict=True))
    total = len(set(plan.items("search")))
    return {key: items for key, items in scores.items() if len(items) == total}


def refuse_other_search(path: Path, header: Mapping[str, Any]) -> None:
    """RunError that shows the difference if the ledger at `path` was begun with other header entries than `header`.

    A file without a complete line is accepted: a killed process may leave an empty file.
    """
    if complete_length(path.read_bytes()):
        refuse_header_mismatch(path, read_trials(path)[0], header)


def refuse_header_mismatch(path: Path, recorded: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """RunError that shows the difference if a recorded header differs from the expected one in an entry of both."""
    expected = json.loads(json.dumps(expected))  # JSON turns keys into strings, as in the file
    for key in HEADER_KEYS:
        if key in expected and recorded.get(key) != expected[key]:
            other = f"{DIFFERENT.get(key, 'another version')} ({show_differences(recorded.get(key), expected[key])})"
            raise RunError(f"{path}: holds scores of {other}; go back to it, or {_afresh(path.parent)}")


def _afresh(folder: Path) -> str:
    """How to start the search afresh: the first free name beside the folder of the run, or what to delete."""
    folder = folder if folder.name else folder.resolve()
    number = next(n for n in range(2, 10_000) if not folder.with_name(f"{folder.name}-{n}").exists())
    other = folder.with_name(f"{folder.name}-{number}")
    key = f"name={other.relative_to('runs')}" if other.is_relative_to("runs") else f"hydra.run.dir={other}"
    return f"start afresh: add {key} (with an experiment file: --out {other}) to the command, or delete {folder}"
