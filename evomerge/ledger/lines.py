"""The lines of a ledger as they count: whole, known and distinct, whatever copying and joining has made of the file.

What stands twice counts once, and what nobody reads is passed over with a line that says so. What contradicts another
line, or has another shape, is refused by its number: no count may depend on it.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import RunError
from evomerge.notices import warn_once

Line = dict[str, Any]
HEADER = ("schema", "config", "models", "chunks", "items")  # what scores are scores of
KINDS = {
    "scores": ("key", "chunk", "scores", "seconds", "recipe", "answers"),
    "error": ("key", "chunk", "error", "recipe"),
    "look": ("look", "keys"),
    "stop": ("stop",),
    "race": ("race",),
    "most": ("most",),
    "deal": ("deal", "levels"),
}
SHOWN = 5  # numbers of lines in a message


def read_lines(path: Path, data: bytes) -> tuple[Line, list[Line]]:
    """Header and lines of a ledger's text, whose torn last line is left out; an empty header where there is nothing."""
    lines = {number: _parsed(path, number, text) for number, text in _whole(data)}
    start = next((number for number, line in lines.items() if "schema" in line), min(lines, default=0))
    header = lines.pop(start, {})
    reading = _Reading(path, header, _chunks(header, lines))
    found = [kept for number, line in reading.of_candidates(lines) if (kept := reading.take(number, line))]
    reading.tell()
    scored = {(line["key"], line["chunk"]) for line in found if "scores" in line}
    # A second try that went well makes up for a failure.
    return header, [line for line in found if "error" not in line or (line["key"], line["chunk"]) not in scored]


def whole_length(data: bytes) -> int:
    """Bytes of the lines that end."""
    return data.rfind(b"\n") + 1


def _whole(data: bytes) -> list[tuple[int, bytes]]:
    texts = data[: whole_length(data)].split(b"\n")
    return [(number, text) for number, text in enumerate(texts, 1) if text.strip()]


def _parsed(path: Path, number: int, text: bytes) -> Line:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise damaged(path, number, "is not JSON") from None


def damaged(path: Path, number: int, what: str) -> RunError:
    """The one line about a line that cannot count."""
    return RunError(f"{path}: line {number} {what}; restore it from a copy, or cut the file before that line")


def _chunks(header: Line, lines: Mapping[int, Line]) -> dict[str, int] | None:
    """Chunk id → items, as drawn and as dealt anew; None where the header does not say."""
    if "chunks" not in header:
        return None
    anew = [line["deal"] for line in lines.values() if isinstance(line.get("deal"), dict)]
    return {chunk: len(items) for chunks in (header["chunks"], *anew) for chunk, items in chunks.items()}


@dataclass
class _Reading:
    """Takes line after line; `seen` holds what each was about, where it stood and what it said."""

    path: Path
    header: Line
    chunks: Mapping[str, int] | None
    seen: dict[str, tuple[int, Any]] = field(default_factory=dict)
    passed: dict[str, list[int]] = field(default_factory=dict)

    def take(self, number: int, line: Line) -> Line | None:
        """The line with the keys that are known, or None where it adds nothing."""
        if "schema" in line:
            self._pass_header(number, line)
            return None
        kind = self._kind(number, line)
        for key in line.keys() - set(KINDS[kind]):
            self._pass(f"unknown key {key!r} in", number)
        known = {key: value for key, value in line.items() if key in KINDS[kind]}
        if problem := _problem(kind, known):
            raise damaged(self.path, number, problem)
        return known if self._belongs(kind, number, known) and self._is_new(kind, number, known) else None

    def of_candidates(self, lines: Mapping[int, Line]) -> Iterator[tuple[int, Line]]:
        """The lines, but for those of a key that no line gives a recipe for: nobody can have asked for that."""
        known = {str(line.get("key")) for line in lines.values() if "recipe" in line}
        for number, line in lines.items():
            if "key" in line and str(line["key"]) not in known:
                self._pass("a candidate without a recipe in", number)
            else:
                yield number, line

    def tell(self) -> None:
        """One line about what was passed over."""
        if not self.passed:
            return
        parts = (f"{what} line{'s' * (len(at) > 1)} {_listed(at)}" for what, at in self.passed.items())
        warn_once(f"{self.path}: passed over {'; '.join(parts)}")

    def _pass(self, what: str, number: int) -> None:
        self.passed.setdefault(what, []).append(number)

    def _pass_header(self, number: int, line: Line) -> None:
        if any(line.get(key) != self.header.get(key) for key in HEADER):
            raise damaged(self.path, number, "is the header of another search's ledger")
        self._pass("a second header in", number)

    def _kind(self, number: int, line: Line) -> str:
        found = [kind for kind in KINDS if kind in line]
        if len(found) != 1:
            raise damaged(self.path, number, "is not a trial")
        return found[0]

    def _belongs(self, kind: str, number: int, line: Line) -> bool:
        """Whether the line's chunk is one of this search, with a score for each of its items."""
        if kind not in ("scores", "error") or self.chunks is None:
            return True
        if line["chunk"] not in self.chunks:
            self._pass("chunks of another search in", number)
            return False
        items = self.chunks[line["chunk"]]
        if kind == "scores" and len(line["scores"]) != items:
            raise damaged(self.path, number, f"holds {len(line['scores'])} scores for {items} items")
        return True

    def _is_new(self, kind: str, number: int, line: Line) -> bool:
        """Whether no line before said it; scores, `most` and a deal can only be said in one way."""
        about, said = _about(kind, line)
        first, before = self.seen.setdefault(about, (number, said))
        if before != said:
            raise damaged(self.path, number, f"contradicts line {first}")
        if first != number:
            self._pass("what stands twice in", number)
        return first == number


def _about(kind: str, line: Line) -> tuple[str, Any]:
    """What a line is about, and what it says of it."""
    if kind == "scores":
        return json.dumps([kind, line["key"], line["chunk"]]), line["scores"]
    if kind == "error":
        return json.dumps([kind, line["key"], line["chunk"], line["error"]]), None
    if kind in ("most", "deal"):
        return kind, line
    return json.dumps([kind, line], sort_keys=True), None


def _problem(kind: str, line: Line) -> str | None:
    """What is wrong with the shape of a line of this kind."""
    if kind in ("scores", "error"):
        right = all(isinstance(line.get(key), str) for key in ("key", "chunk"))
        right &= isinstance(line["error"], str) if kind == "error" else _are_scores(line)
        right &= isinstance(line.get("recipe", {}), dict) and _are_counts(line.get("answers", {}))
    elif kind == "look":
        right = isinstance(line["look"], str) and isinstance(line.get("keys"), list)
        right = right and all(isinstance(key, str) for key in line["keys"])
    elif kind == "most":
        right = type(line["most"]) is int
    elif kind == "deal":
        right = isinstance(line["deal"], dict) and isinstance(line.get("levels"), dict)
        right = right and all(isinstance(items, list) for items in line["deal"].values())
    else:
        right = isinstance(line[kind], dict) and (kind == "stop" or _are_counts(line["race"].get("stopped")))
    return None if right else "is not a trial"


def _are_scores(line: Line) -> bool:
    numbers = [line.get("seconds"), *(line["scores"] if isinstance(line["scores"], list) else [None])]
    return all(type(number) in (int, float) and math.isfinite(number) for number in numbers)


def _are_counts(given: Any) -> bool:
    return isinstance(given, dict) and all(type(count) is int for count in given.values())


def _listed(numbers: list[int]) -> str:
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return ", ".join(map(str, numbers[:SHOWN])) + more
