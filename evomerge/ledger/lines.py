"""Validation of ledger lines: complete, known and distinct lines only, even in a file that was copied or joined.

Duplicates and lines that nothing reads are skipped, with one warning that gives their line numbers. A line that
contradicts another one or has an unexpected shape raises RunError with its number, because counts would depend on it.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, RunError
from evomerge.notices import warn_once
from evomerge.parsing import parse_json
from evomerge.schema import check_value

Line = dict[str, Any]
HEADER_KEYS = ("schema", "config", "models", "functions", "generation", "chunks", "items")  # what identifies a search
KEYS = {  # kind of line → its keys; the kind is the key that only lines of this kind have
    "scores": ("key", "chunk", "scores", "seconds", "recipe", "answers", "tokens"),
    "error": ("key", "chunk", "error", "recipe"),
    "look": ("look", "keys"),
    "stop": ("stop",),
    "race": ("race",),
    "most": ("most",),
    "deal": ("deal", "levels"),
    "slope": ("slope", "losses", "derivatives"),
    "price": ("price", "allowance"),
    "screen": ("screen",),
    "cut": ("cut", "chunks", "budget"),
    "learnt": ("learnt", "key", "after", "asked", "score"),
    "elapsed": ("elapsed", "command"),
}
EMPTY: Line = {}
HEADER_TYPES: dict[str, Any] = {  # of the entries that a reader goes into
    "schema": int,
    "config": Mapping[str, Any],
    "chunks": Mapping[str, Sequence[str]],
    "contents": Mapping[str, str],
    "used": Sequence[str],
    "functions": Mapping[str, str],
    "aggregates": Mapping[str, Mapping[str, str | int | float]],
    "versions": Mapping[str, str],
}
MAX_SHOWN = 5  # line numbers listed in a message


def read_lines(path: Path, data: bytes, *, with_recipes: bool = True) -> tuple[Line, list[Line]]:
    """Header and valid lines of a ledger's bytes, without an incomplete last line; an empty header for an empty file.

    A failure is left out if the same candidate was scored on the same chunk elsewhere in the file. Without recipes,
    which need most of the memory, those in the lines are empty.
    """
    lines = {number: _parse(path, number, text, with_recipes) for number, text in _complete_lines(data)}
    start = next((number for number, line in lines.items() if "schema" in line), min(lines, default=0))
    header = lines.pop(start, {})
    _check_header(path, start, header)
    line_filter = _LineFilter(path, header, _chunk_sizes(header, lines))
    found = [kept for number, line in line_filter.with_recipe(lines) if (kept := line_filter.accept(number, line))]
    line_filter.warn_of_skipped()
    scored = {(line["key"], line["chunk"]) for line in found if "scores" in line}
    return header, [line for line in found if "error" not in line or (line["key"], line["chunk"]) not in scored]


def _check_header(path: Path, number: int, header: Line) -> None:
    """RunError for a header whose entries are of other types than a search writes; all but `schema` may be missing."""
    if number and "schema" not in header:
        raise damaged_line(path, number, "is no header of a ledger")
    try:
        for key, hint in HEADER_TYPES.items():
            if key in header:
                check_value(header[key], hint, key)
    except ConfigError as error:
        raise damaged_line(path, number, f"is no header of a ledger ({error})") from None


def complete_length(data: bytes) -> int:
    """The number of bytes up to the end of the last complete line."""
    return data.rfind(b"\n") + 1


def _complete_lines(data: bytes) -> list[tuple[int, bytes]]:
    texts = data[: complete_length(data)].split(b"\n")
    return [(number, text) for number, text in enumerate(texts, 1) if text.strip()]


def _parse(path: Path, number: int, text: bytes, with_recipes: bool) -> Line:
    try:
        line = parse_json(text)
    except ValueError:
        raise damaged_line(path, number, "is not JSON") from None
    if not isinstance(line, dict):
        raise damaged_line(path, number, "is not a JSON object")
    if not with_recipes and isinstance(line.get("recipe"), dict):
        line["recipe"] = EMPTY
    return line


def damaged_line(path: Path, number: int, problem: str) -> RunError:
    """The error for a line that cannot be used."""
    return RunError(f"{path}: line {number} {problem}; restore it from a copy, or cut the file before that line")


def _chunk_sizes(header: Line, lines: Mapping[int, Line]) -> dict[str, int] | None:
    """Chunk id → number of items, for original and regrouped chunks; None if the header lists no chunks."""
    if "chunks" not in header:
        return None
    regrouped = [line["deal"] for line in lines.values() if _is_deal(line.get("deal"))]
    return {chunk: len(items) for chunks in (header["chunks"], *regrouped) for chunk, items in chunks.items()}


@dataclass
class _LineFilter:
    """Accepts or skips lines one after the other.

    `seen` maps the subject of each accepted line to its number and its content; `skipped` maps a reason to the numbers
    of the lines that were skipped for it.
    """

    path: Path
    header: Line
    chunk_sizes: Mapping[str, int] | None
    seen: dict[tuple[Any, ...], tuple[int, Any]] = field(default_factory=dict)
    skipped: dict[str, list[int]] = field(default_factory=dict)

    def accept(self, number: int, line: Line) -> Line | None:
        """The line with its known keys, or None if it is skipped; RunError for a line that cannot be used."""
        if "schema" in line:
            self._skip_header(number, line)
            return None
        kind = self._kind(number, line)
        for key in line.keys() - set(KEYS[kind]):
            self._skip(f"unknown key {key!r} in", number)
        known = {key: value for key, value in line.items() if key in KEYS[kind]}
        if problem := _shape_problem(kind, known):
            raise damaged_line(self.path, number, problem)
        return known if self._in_this_search(kind, number, known) and self._is_new(kind, number, known) else None

    def with_recipe(self, lines: Mapping[int, Line]) -> Iterator[tuple[int, Line]]:
        """The numbered lines without those of a candidate whose recipe is in no line: such a candidate is unknown."""
        known = {str(line.get("key")) for line in lines.values() if "recipe" in line}
        for number, line in lines.items():
            if "key" in line and str(line["key"]) not in known:
                self._skip("a candidate without a recipe in", number)
            else:
                yield number, line

    def warn_of_skipped(self) -> None:
        """Log one warning that lists the skipped lines by reason."""
        if not self.skipped:
            return
        parts = (f"{what} line{'s' * (len(at) > 1)} {_listed(at)}" for what, at in self.skipped.items())
        warn_once(f"{self.path}: ignored {'; '.join(parts)}")

    def _skip(self, reason: str, number: int) -> None:
        self.skipped.setdefault(reason, []).append(number)

    def _skip_header(self, number: int, line: Line) -> None:
        if any(line.get(key) != self.header.get(key) for key in HEADER_KEYS):
            raise damaged_line(self.path, number, "is the header of another search's ledger")
        self._skip("a second header in", number)

    def _kind(self, number: int, line: Line) -> str:
        found = [kind for kind in KEYS if kind in line]
        if len(found) != 1:
            raise damaged_line(self.path, number, "is not a trial")
        return found[0]

    def _in_this_search(self, kind: str, number: int, line: Line) -> bool:
        """Whether the line's chunk belongs to this search; RunError if it has not one score for each of its items."""
        if kind == "cut" and self.chunk_sizes is not None:
            if known := line["cut"] in {chunk.partition("/")[0] for chunk in self.chunk_sizes} or not line["chunks"]:
                return known
            self._skip("cuts of another search in", number)
            return False
        if kind not in ("scores", "error") or self.chunk_sizes is None:
            return True
        if line["chunk"] not in self.chunk_sizes:
            self._skip("chunks of another search in", number)
            return False
        items = self.chunk_sizes[line["chunk"]]
        if kind == "scores" and len(line["scores"]) != items:
            raise damaged_line(self.path, number, f"holds {len(line['scores'])} scores for {items} items")
        return True

    def _is_new(self, kind: str, number: int, line: Line) -> bool:
        """Whether no earlier line has the same subject; RunError if one has, with other content."""
        subject, content = _subject_and_content(kind, line)
        first, known = self.seen.setdefault(subject, (number, content))
        if known != content:
            raise damaged_line(self.path, number, f"contradicts line {first}")
        if first != number:
            self._skip("duplicates in", number)
        return first == number


def _subject_and_content(kind: str, line: Line) -> tuple[tuple[Any, ...], Any]:
    """What identifies a line, and what may not differ between two lines of the same identity."""
    if kind == "scores":
        return (kind, line["key"], line["chunk"]), [line["scores"], line.get("tokens")]
    if kind == "error":
        return (kind, line["key"], line["chunk"], line["error"]), None
    if kind in ("most", "deal", "price", "screen"):
        return (kind,), line
    if kind == "learnt":
        return (kind, line["learnt"]), line
    if kind == "slope":
        return (kind, line["slope"]), line
    return (kind, json.dumps(line, sort_keys=True)), None


def _shape_problem(kind: str, line: Line) -> str | None:
    """Why the values of a line do not have the types of its kind, or None."""
    if kind in ("scores", "error"):
        right = all(isinstance(line.get(key), str) for key in ("key", "chunk"))
        right &= isinstance(line["error"], str) if kind == "error" else _are_scores(line)
        right &= isinstance(line.get("recipe", {}), dict) and _are_counts(line.get("answers", {}))
    elif kind == "look":
        right = isinstance(line["look"], str) and _are_texts(line.get("keys"))
    elif kind == "most":
        right = type(line["most"]) is int
    elif kind == "price":
        right = _are_numbers([line["price"], line.get("allowance")])
    elif kind == "cut":
        right = isinstance(line["cut"], str) and type(line.get("chunks")) is int and line["chunks"] >= 0
        right = right and isinstance(line.get("budget"), dict | None)
    elif kind == "learnt":
        right = all(type(line.get(key)) is int and line[key] >= 0 for key in ("learnt", "after", "asked"))
        right = right and isinstance(line.get("key"), str) and _are_numbers([line.get("score") or 0])
    elif kind == "elapsed":
        right = _are_numbers([line["elapsed"]]) and type(line.get("command")) is int
    elif kind == "slope":
        slope = line.get("derivatives")
        right = isinstance(line["slope"], str) and _are_numbers(line.get("losses"))
        right = right and (slope is None or _are_numbers(slope))
    elif kind == "screen":
        screen = line["screen"]
        right = isinstance(screen, dict) and _are_texts(screen.get("kept")) and isinstance(screen.get("rows"), list)
    elif kind == "deal":
        right = _is_deal(line["deal"]) and isinstance(line.get("levels"), dict)
    elif kind == "stop":
        stop = line["stop"]
        right = isinstance(stop, dict) and type(stop.get("after")) is int and isinstance(stop.get("budget"), dict)
    else:
        race = line["race"]
        right = isinstance(race, dict) and _are_counts(race.get("stopped"))
        right = right and type(race.get("generation")) is int and isinstance(race.get("first"), str)
    return None if right else "is not a trial"


def _are_scores(line: Line) -> bool:
    """Whether each item has a score, or a value of a corpus-level metric, and lengths of answers fit the items."""
    scores, tokens = line["scores"], line.get("tokens")
    right = _are_numbers([line.get("seconds")]) and isinstance(scores, list)
    right = right and all(_is_score(score) for score in scores)
    lengths = right and isinstance(tokens, list) and len(tokens) == len(scores)
    return right and (tokens is None or (lengths and _are_numbers([one for one in tokens if one is not None])))


def _is_score(value: Any) -> bool:
    return (type(value) in (int, float) and math.isfinite(value)) or isinstance(value, list | dict)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) in (int, float) and math.isfinite(v) for v in values)


def _is_deal(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_are_texts, value.values()))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(type(count) is int for count in value.values())


def _listed(numbers: list[int]) -> str:
    more = f" and {len(numbers) - MAX_SHOWN} more" if len(numbers) > MAX_SHOWN else ""
    return ", ".join(map(str, numbers[:MAX_SHOWN])) + more
