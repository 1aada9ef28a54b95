"""trials.jsonl: journal, memo and resume in one.

One header line (what the scores are scores of), then one line per scored chunk or failed candidate, each on the disk
before the search goes on. A torn last line is dropped and its work redone; nothing else is ever rewritten.
"""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from evomerge.errors import RunError, unwritable
from evomerge.ledger.lines import read_lines, whole_length
from evomerge.ledger.reading import check_header

SCHEMA = 1


@dataclass
class Trial:
    """What is known of one recipe: its scores chunk by chunk, or why it failed."""

    scores: dict[str, list[float]] = field(default_factory=dict)  # chunk id → one score per item, in chunk order
    errors: dict[str, str] = field(default_factory=dict)  # chunk id → why the candidate could not be scored there
    answers: dict[str, dict[str, int]] = field(default_factory=dict)  # chunk id → counts, where something was generated
    seconds: float = 0.0
    items: int = 0  # scored and paid for

    def fill_in(self, old: Mapping[str, Sequence[str]], new: Mapping[str, Sequence[str]]) -> None:
        """Put together what `new` chunks would say of the items of all `old` ones: their scores, or why it failed.

        What is known of a new chunk already stays.
        """
        failed = [self.errors[chunk] for chunk in old if chunk in self.errors]
        if failed:
            self.errors = {**{chunk: failed[0] for chunk in new if chunk not in self.scores}, **self.errors}
        elif all(chunk in self.scores for chunk in old):
            pairs = (zip(items, self.scores[chunk], strict=True) for chunk, items in old.items())
            known = {item: score for chunk_pairs in pairs for item, score in chunk_pairs}
            self.scores = {**{chunk: [known[item] for item in items] for chunk, items in new.items()}, **self.scores}


@dataclass(frozen=True)
class Rechunking:
    """The search slice dealt anew: chunk id → items, and the level of every item that it was dealt by."""

    chunks: Mapping[str, Sequence[str]]
    levels: Mapping[str, str]


class Ledger:
    """An append-only file of trials; opening it replays what is already paid for.

    Raises RunError where the file belongs to another configuration, is damaged before its last line, is in use by
    another process, or cannot be written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.trials: dict[str, Trial] = {}
        self.slice_uses: list[dict[str, Any]] = []
        self.stops: list[dict[str, Any]] = []
        self.races: list[dict[str, Any]] = []
        self.rechunking: Rechunking | None = None
        self.race_limit: int | None = None  # items after which races end
        self.header: dict[str, Any] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("a+b", buffering=0)  # nothing may wait for a later flush
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._lock()
        try:
            self._open({"schema": SCHEMA, **header})
        except RunError:
            self.close()
            raise

    def _open(self, header: Mapping[str, Any]) -> None:
        self.header, lines = self._replay()
        if not self.header:
            self.header = dict(header)
            self._write(header)
            return
        check_header(self.path, self.header, header)
        for line in lines:
            self._apply(line)

    def __getitem__(self, key: str) -> Trial:
        """The trial of a recipe key; an empty one for a recipe never seen."""
        return self.trials.get(key, Trial())

    def append_scores(
        self,
        key: str,
        chunk: str,
        scores: list[float],
        seconds: float,
        recipe: Mapping[str, Any],
        answers: Mapping[str, int] | None = None,
    ) -> None:
        """Record one scored chunk, with counts of generated answers; the recipe is written with a candidate's first."""
        line = {"key": key, "chunk": chunk, "scores": scores, "seconds": round(seconds, 4)}
        self._record({**line, "answers": dict(answers)} if answers else line, recipe)

    def append_failure(self, key: str, chunk: str, reason: str, recipe: Mapping[str, Any]) -> None:
        """Record that a candidate could not be built or scored; it is not tried again on that chunk."""
        self._record({"key": key, "chunk": chunk, "error": reason}, recipe)

    def append_slice_use(self, slice_name: str, keys: list[str]) -> None:
        """Record that candidates were looked at on a slice outside the search, once for the same look."""
        look = {"look": slice_name, "keys": keys}
        if look not in self.slice_uses:
            self._write(look)
            self.slice_uses.append(look)

    def append_stop(self, generation: int, budget: Mapping[str, Any]) -> None:
        """Record after which generation the time of a budget had run out."""
        stop = {"after": generation, "budget": dict(budget)}
        self._write({"stop": stop})
        self.stops.append(stop)

    def append_race(self, generation: int, first: str, stopped: Mapping[str, int]) -> None:
        """Record whom a generation's race has stopped, after how many chunks from `first` on; once for the same."""
        race = {"generation": generation, "first": first, "stopped": dict(stopped)}
        if race not in self.races:
            self._write({"race": race})
            self.races.append(race)

    def append_race_limit(self, items: int) -> None:
        """Record after how many items the races of this search end."""
        self._write({"most": items})
        self.race_limit = items

    def recall(self, chunks: Mapping[str, Sequence[str]]) -> None:
        """Have what trials hold of a slice that was dealt anew count for its `chunks` of before, too."""
        if self.rechunking is not None:
            for trial in self.trials.values():
                trial.fill_in(self.rechunking.chunks, chunks)

    def append_rechunking(self, rechunking: Rechunking, old: Mapping[str, Sequence[str]]) -> None:
        """Record that the search slice is in other chunks, once; what trials hold of all `old` ones counts for them."""
        if self.rechunking is None:
            self._write({"deal": dict(rechunking.chunks), "levels": dict(rechunking.levels)})
            self.rechunking = rechunking
        for trial in self.trials.values():
            trial.fill_in(old, rechunking.chunks)

    def close(self) -> None:
        """Let another process have the file."""
        self._file.close()

    def _record(self, line: dict[str, Any], recipe: Mapping[str, Any]) -> None:
        if line["key"] not in self.trials:
            line["recipe"] = recipe
        self._write(line)
        self._apply(line)

    def _apply(self, line: Mapping[str, Any]) -> None:
        if "look" in line:
            self.slice_uses.append(dict(line))
            return
        if "stop" in line:
            self.stops.append(line["stop"])
            return
        if "race" in line:
            self.races.append(line["race"])
            return
        if "most" in line:
            self.race_limit = int(line["most"])
            return
        if "deal" in line:
            self.rechunking = Rechunking(line["deal"], line["levels"])
            return
        trial = self.trials.setdefault(line["key"], Trial())
        if "error" in line:
            trial.errors[line["chunk"]] = line["error"]
        else:
            trial.scores[line["chunk"]] = line["scores"]
            trial.items += len(line["scores"])
            if "answers" in line:
                trial.answers[line["chunk"]] = line["answers"]
            trial.errors.pop(line["chunk"], None)  # a second try that went well
            trial.seconds += line["seconds"]

    def _write(self, line: Mapping[str, Any]) -> None:
        """One line, synced; where the disk refuses, the file is cut back to its last whole line."""
        size = self._file.seek(0, os.SEEK_END)
        text = memoryview(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        try:
            while text:  # a nearly full disk may take a part
                text = text[self._file.write(text) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            os.truncate(self.path, size)
            raise unwritable(self.path, error) from error

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise RunError(
                f"{self.path}: another process is running this search; wait for it, or set another name"
            ) from None

    def _replay(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        self._file.seek(0)
        data = self._file.read()
        if (whole := whole_length(data)) < len(data):
            os.truncate(self.path, whole)  # torn by a crash: its work is redone
        return read_lines(self.path, data)
