"""A ledger as it is read by whoever does not write it: its lines, what they are scores of, whether a header fits."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import RunError
from evomerge.ledger.lines import HEADER, read_lines, whole_length
from evomerge.scoring import Chunk, Plan


def read_trials(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and lines of a ledger that may be in use, those that count; a torn last line is left out."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: not a readable ledger ({error.strerror}); is this a run folder?") from None
    header, lines = read_lines(path, data)
    if not header:
        raise RunError(f"{path}: empty; the search had not begun")
    return header, lines


def chunks_of(header: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Chunk id → items of every slice, as drawn and as dealt anew."""
    anew = [line["deal"] for line in lines if "deal" in line]
    return {**header["chunks"], **{id_: items for rechunking in anew for id_, items in rechunking.items()}}


def plan_of(header: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Plan:
    """All chunks that a ledger's scores belong to, and the weights of their tasks."""
    chunks: dict[str, tuple[Chunk, ...]] = {}
    for chunk, items in chunks_of(header, lines).items():
        name = chunk.partition("/")[0]
        chunks[name] = (*chunks.get(name, ()), Chunk(chunk, name, tuple(items)))
    tasks = [{"name": task} if isinstance(task, str) else task for task in header["config"]["scorer"]["tasks"]]
    return Plan(chunks, {task["name"]: float(task.get("weight", 1.0)) for task in tasks})


def whole_scores(plan: Plan, lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Key → item → score of every recipe that has seen all of the search slice, in whichever chunks."""
    wanted = {chunk.id: chunk.items for chunk in plan.chunks["search"]}
    scores: dict[str, dict[str, float]] = {}
    for line in lines:
        if line.get("chunk") in wanted and "scores" in line:
            scores.setdefault(line["key"], {}).update(zip(wanted[line["chunk"]], line["scores"], strict=True))
    total = len(set(plan.items("search")))
    return {key: items for key, items in scores.items() if len(items) == total}


def refuse_other(path: Path, header: Mapping[str, Any]) -> None:
    """RunError with the difference where a ledger was begun with other entries than those of `header`.

    One without a whole line was not begun: a kill may leave an empty file behind.
    """
    if whole_length(path.read_bytes()):
        check_header(path, read_trials(path)[0], header)


def check_header(path: Path, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """RunError with the difference where a ledger's header holds other entries than the wanted one."""
    wanted = json.loads(json.dumps(wanted))  # as the file has it: keys are text
    for key in HEADER:
        if key in wanted and held.get(key) != wanted[key]:
            what = {"config": "another configuration", "models": "other weights", "chunks": "other items"}
            what["items"] = "other prompts or answers"
            other = f"{what.get(key, 'another version')} ({_difference(held.get(key), wanted[key])})"
            raise RunError(f"{path}: holds scores of {other}; go back to it, or give the new search another name")


def _difference(old: Any, new: Any) -> str:
    """What changed between two header entries, shortly."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return f"{old} → {new}"
    before, after = _flatten(old), _flatten(new)
    keys = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    shown = [f"{key}: {before.get(key, 'absent')} → {after.get(key, 'absent')}" for key in keys[:4]]
    return "; ".join(shown) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
