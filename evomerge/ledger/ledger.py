"""The ledger trials.jsonl: an append-only journal of scores, which is also the cache that a search resumes from.

The first line is a header that identifies the search. Each further line records one scored chunk, one failed candidate
or one decision of the search, and is synced to disk before the search continues. If a crash leaves an incomplete last
line, that line is dropped and its work is repeated. No other line is ever rewritten.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from evomerge.errors import RunError, write_error
from evomerge.ledger.lines import complete_length, read_lines
from evomerge.ledger.reading import refuse_header_mismatch
from evomerge.ledger.records import Cut, Learnt, Rechunking, Slope, SlopePrice, Trial

SCHEMA = 1
MARK_INTERVAL = 3.0  # seconds; a killed command loses at most so much of its time, and that of the chunks in work


class Ledger:
    """An append-only file of trials; opening an existing file loads everything that is recorded in it.

    Raises RunError if the file belongs to another configuration, is damaged before its last line, is in use by another
    process, or cannot be written.

    With `started`, a time of the monotonic clock, the file also records how long this command has been running, so that
    a limit on time can count all commands of a run.

    `guard` is called before a line is written; what it raises keeps the line out of the file.
    """

    def __init__(
        self,
        path: Path,
        header: Mapping[str, Any],
        started: float | None = None,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        self.path, self._guard = path, guard
        self.elapsed: dict[int, float] = {}  # number of an earlier command → its recorded seconds
        self._started, self._marked = started, 0.0
        self.trials: dict[str, Trial] = {}
        self.slice_uses: list[dict[str, Any]] = []
        self.stops: list[dict[str, Any]] = []
        self.races: list[dict[str, Any]] = []
        self._races: dict[str, list[dict[str, Any]]] = {}  # by generation
        self.cuts: list[Cut] = []
        self.learnt: list[Learnt] = []  # of an asynchronous search, in order
        self.rechunking: Rechunking | None = None
        self.race_limit: int | None = None  # items per candidate after which races end
        self.slopes: dict[str, Slope] = {}  # digest of a request → its answer
        self.slope_price: SlopePrice | None = None
        self.screening: Mapping[str, Any] | None = None  # which experts the search merges, and why
        self.header: dict[str, Any] = {}
        self._command = 1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("a+b", buffering=0)  # unbuffered: a kill must not lose a line
        except OSError as error:
            raise write_error(self.path, error) from error
        self._lock()
        try:
            self._open({"schema": SCHEMA, **header})
        except BaseException:
            self.close()
            raise

    def _open(self, header: Mapping[str, Any]) -> None:
        self.header, lines = self._replay()
        if not self.header:
            self.header = dict(header)
            self._write(header)
            return
        refuse_header_mismatch(self.path, self.header, header)
        for line in lines:
            self._apply(line)
        self._command = max(self.elapsed, default=0) + 1
        if self._started is not None:
            self._mark(time.monotonic() - self._started)

    def __getitem__(self, key: str) -> Trial:
        """The trial of a recipe key; an empty trial for a recipe that has no line."""
        return self.trials.get(key, Trial())

    def append_scores(
        self,
        key: str,
        chunk: str,
        scores: list[Any],
        seconds: float,
        recipe: Mapping[str, Any],
        answers: Mapping[str, int] | None = None,
        tokens: Sequence[float | None] | None = None,
    ) -> None:
        """Record the scores of one chunk in item order, the seconds that they took, and counts of generated answers.

        `tokens` has the length of each item's answers, None for an item without a generated one.

        The recipe's document is written only with the first line of its key.
        """
        line: dict[str, Any] = {"key": key, "chunk": chunk, "scores": scores, "seconds": round(seconds, 4)}
        line |= {"answers": dict(answers)} if answers else {}
        self._record({**line, "tokens": list(tokens)} if tokens else line, recipe)

    def append_failure(self, key: str, chunk: str, reason: str, recipe: Mapping[str, Any]) -> None:
        """Record that a candidate could not be built or scored on a chunk; a resumed search does not try it again."""
        self._record({"key": key, "chunk": chunk, "error": reason}, recipe)

    def append_slice_use(self, slice_name: str, keys: list[str]) -> None:
        """Record that these candidates are evaluated on a slice outside the search; an equal record is not repeated."""
        use = {"look": slice_name, "keys": keys}
        if use not in self.slice_uses:
            self._write(use)
            self.slice_uses.append(use)

    def append_stop(self, generation: int, budget: Mapping[str, Any]) -> None:
        """Record the generation after which the time of this budget had run out."""
        stop = {"after": generation, "budget": dict(budget)}
        self._write({"stop": stop})
        self.stops.append(stop)

    def append_cut(self, cut: Cut) -> None:
        """Record that a slice ends early, or that a step is left out, because the time of a budget is short."""
        self._write({"cut": cut.name, "chunks": cut.chunks, "budget": cut.budget and dict(cut.budget)})
        self.cuts.append(cut)

    def append_race(self, generation: int, first: str, stopped: Mapping[str, int]) -> None:
        """Record the candidates that a race stopped, as key → chunks seen; an equal record is not repeated.

        `first` is the id of the chunk that the generation began with.
        """
        race = {"generation": generation, "first": first, "stopped": dict(stopped)}
        if race not in self._races.get(str(generation), []):
            self._write({"race": race})
            self._add_race(race)

    def _add_race(self, race: dict[str, Any]) -> None:
        self.races.append(race)
        self._races.setdefault(str(race.get("generation")), []).append(race)

    def append_learnt(self, learnt: Learnt) -> None:
        """Record that the optimizer of an asynchronous search has learnt the result of a candidate."""
        line = {"learnt": learnt.number, "key": learnt.key, "after": learnt.chunks, "asked": learnt.asked}
        self._write(line if learnt.score is None else {**line, "score": learnt.score})
        self.learnt.append(learnt)

    def append_race_limit(self, items: int) -> None:
        """Record the number of items per candidate after which the races of this search end."""
        self._write({"most": items})
        self.race_limit = items

    def append_slope(self, key: str, losses: list[float], derivatives: list[float] | None) -> Slope:
        """Record the answer to a request of a descent, which `key` identifies."""
        line = {"slope": key, "losses": losses, "derivatives": derivatives}
        self._write(line)
        self._apply(line)
        return self.slopes[key]

    def append_slope_price(self, price: SlopePrice) -> None:
        """Record the price of slopes, once per search."""
        self._write({"price": price.price, "allowance": price.allowance})
        self.slope_price = price

    def append_screening(self, record: Mapping[str, Any]) -> None:
        """Record which experts the search merges, once per search."""
        self._write({"screen": dict(record)})
        self.screening = record

    def copy_rechunked_scores(self, chunks: Mapping[str, Sequence[str]]) -> None:
        """Copy scores of a regrouped search slice back to its original `chunks` (id → items), in every trial."""
        if self.rechunking is not None:
            for trial in self.trials.values():
                trial.regroup(self.rechunking.chunks, chunks)

    def append_rechunking(self, rechunking: Rechunking, old: Mapping[str, Sequence[str]]) -> None:
        """Record the new chunks of the search slice, once, and copy the scores of the `old` chunks to them."""
        if self.rechunking is None:
            self._write({"deal": dict(rechunking.chunks), "levels": dict(rechunking.levels)})
            self.rechunking = rechunking
        for trial in self.trials.values():
            trial.regroup(old, rechunking.chunks)

    def close(self) -> None:
        """Close the file and release its lock."""
        self._file.close()

    def mark_time(self) -> None:
        """Record how long this command has been running, where the time is recorded at all."""
        if self._started is not None:
            self._mark(time.monotonic() - self._started)

    def _mark(self, elapsed: float) -> None:
        self._marked = elapsed
        self._append({"elapsed": round(elapsed, 3), "command": self._command})

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
            self._add_race(line["race"])
            return
        if "most" in line:
            self.race_limit = int(line["most"])
            return
        if "slope" in line:
            self.slopes[line["slope"]] = (line["losses"], line.get("derivatives"))
            return
        if "price" in line:
            self.slope_price = SlopePrice(float(line["price"]), float(line["allowance"]))
            return
        if "screen" in line:
            self.screening = line["screen"]
            return
        if "learnt" in line:
            number, key, chunks, asked = (line[name] for name in ("learnt", "key", "after", "asked"))
            self.learnt.append(Learnt(number, key, chunks, asked, line.get("score")))
            return
        if "cut" in line:
            self.cuts.append(Cut(line["cut"], line["chunks"], line.get("budget")))
            return
        if "elapsed" in line:
            number, seconds = line["command"], float(line["elapsed"])
            self.elapsed[number] = max(seconds, self.elapsed.get(number, 0.0))
            return
        if "deal" in line:
            self.rechunking = Rechunking(line["deal"], line["levels"])
            return
        self.trials.setdefault(line["key"], Trial()).add(line)

    def _write(self, line: Mapping[str, Any]) -> None:
        self._guard()
        self._append(line)
        if self._started is not None and (elapsed := time.monotonic() - self._started) > self._marked + MARK_INTERVAL:
            self._mark(elapsed)

    def _append(self, line: Mapping[str, Any]) -> None:
        """Append one line and sync it; if the write fails, the file is truncated to its last complete line."""
        size = self._file.seek(0, os.SEEK_END)
        text = memoryview(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        try:
            while text:  # an unbuffered write may write only a part, for instance on a nearly full disk
                text = text[self._file.write(text) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            os.truncate(self.path, size)
            raise write_error(self.path, error) from error

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
        if (complete := complete_length(data)) < len(data):
            os.truncate(self.path, complete)  # drop the incomplete last line that a crash has left
        return read_lines(self.path, data, with_recipes=False)
