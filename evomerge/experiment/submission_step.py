"""The step that ends a run for a contest: how long it will take, and the pack itself."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import ConfigError, RunError
from evomerge.paths import PACK
from evomerge.recipes import Recipe
from evomerge.run_files import read_result
from evomerge.scoring import Request
from evomerge.scoring.tasks import kinds_of_rows
from evomerge.submission import (
    Row,
    SubmissionConfig,
    generation_request,
    read_rows,
    refuse_quantised_base,
    right_requests,
    write_pack,
)
from evomerge.terminal import duration
from evomerge.workers import Job
from evomerge.workers.pools import JobQueue, Pool

if TYPE_CHECKING:
    from evomerge.experiment.experiment import Experiment

WARM_UP, FIRST, GROWTH = 1, 4, 4  # rows that are predicted untimed, then timed: 4, 16, 64, …
ENOUGH = 2.0  # seconds that the timed rows of a kind must take, or else more of them are timed
CONVENTIONS = 2  # by which choices are predicted where the target is known
SLACK, FIXED = 1.5, 8.0  # of the measured seconds; of seconds for the files of the pack
MOST = 0.6  # of the time of a run that its submission may take


def recorded_submission(folder: Path) -> dict[str, Any] | None:
    """What the pack of a run was made from, by its result; None where there is none."""
    try:
        found: dict[str, Any] | None = read_result(folder).get("submission")
    except RunError:
        return None
    return found


def refuse_unpackable(experiment: "Experiment") -> None:
    """ConfigError for a search whose winner no pack can hold, before it begins."""
    if experiment.config.space.get("flow") is not None:
        raise ConfigError("submission.pack: a pack has the base's layers; leave space.flow out, or the pack")
    if experiment.config.finalise.calibrate_routers:
        raise ConfigError("submission.pack: a pack holds no calibrated routers; set finalise.calibrate_routers=false")


class SubmissionStep:
    """The pack of a run in `folder`; TaskError for a file of inputs that cannot be predicted.

    ConfigError for a quantised base.
    """

    def __init__(self, experiment: "Experiment", folder: Path) -> None:
        config = experiment.config
        refuse_quantised_base(experiment.family)
        files = [str(path) for path in _files(config.scorer.tasks) if kinds_of_rows(Path(path))]
        self.config: SubmissionConfig = config.submission.submission(folder.resolve().name, files)
        self._folder, self._base = folder, experiment.baselines["base"]
        self._hours = config.budget.hours
        # Tokens of an answer that is timed: half of the model's positions leave room for any input.
        self._timed_tokens = min(self.config.max_gen_len, max(1, experiment.max_length // 2))
        self._rows = {path: read_rows(path) for path in self.config.inputs}

    def __str__(self) -> str:
        files = ", ".join(f"{len(rows)} rows of {path}" for path, rows in self._rows.items())
        return f"{PACK} as {self.config.name}, predict={self.config.predict}: {files or 'no file is predicted'}"

    def seconds_needed(self, pool: Pool) -> float:
        """The seconds that the run keeps for this step: as recorded with its pack, or as `measured_with` the pool.

        A finished run that is repeated therefore starts no worker.
        """
        before = recorded_submission(self._folder) or {}
        if (self._folder / PACK).exists() and before.get("settings") == self._settings() and "seconds" in before:
            return float(before["seconds"])
        return self.measured_with(pool)

    def measured_with(self, pool: Pool) -> float:
        """About how long merging, predicting and packing will take, by timing a few rows with the workers.

        RunError if that is most of the time that the run has, or if the base cannot predict a row.
        """
        start, computed = time.monotonic(), 0.0

        def timed(name: str, requests: Sequence[Request]) -> float:
            nonlocal computed
            seconds = _timed(pool, self._base, f"submission/{name}", requests)
            computed += seconds
            return seconds

        predicting = self.prediction_seconds(timed)
        loading = time.monotonic() - start - computed
        needed = FIXED + SLACK * (predicting + loading)
        self.refuse_beyond_hours(needed)
        return needed

    def refuse_beyond_hours(self, needed: float) -> None:
        """RunError if so many seconds are most of the time that the run has."""
        if self._hours is not None and needed > MOST * 3600 * self._hours:
            count = sum(map(len, self._rows.values()))
            raise RunError(
                f"submission: {count} predictions take about {duration(needed)} here, most of "
                f"budget.hours={self._hours:g}; raise it, or give fewer inputs"
            )

    def prediction_seconds(self, timed: Callable[[str, Sequence[Request]], float]) -> float:
        """About how long the predictions take; `timed` returns the seconds of a kind of requests."""
        rows = [row for listed in self._rows.values() for row in listed]
        choices, answers = [row for row in rows if row.choices], [row for row in rows if not row.choices]
        predictions = sum(1 if row.target is None else CONVENTIONS for row in choices)
        found = predictions * self._seconds_per_row("choices", choices, timed)
        longer = self.config.max_gen_len / self._timed_tokens
        return found + longer * len(answers) * self._seconds_per_row("answers", answers, timed)

    def _seconds_per_row(
        self, kind: str, rows: Sequence[Row], timed: Callable[[str, Sequence[Request]], float]
    ) -> float:
        if not rows:
            return 0.0
        timed(f"{kind}/0", self._requests(_spread(rows, WARM_UP)))
        count, seconds = FIRST, 0.0
        while True:
            sample = _spread(rows, count)
            seconds = timed(f"{kind}/{count}", self._requests(sample))
            if seconds >= ENOUGH or len(sample) == len(rows):
                return seconds / len(sample)
            count *= GROWTH

    def write(self, fingerprint: str, before: Mapping[str, Any] | None, say: Callable[[str], None]) -> dict[str, Any]:
        """Write the pack into the run's folder, in the place of an older one; returns what it was made from.

        A pack that was made from the same weights, files and settings, as `before` says, stays as it is.
        """
        config, out = self.config, self._folder / PACK
        made_from = {"fingerprint": fingerprint, "settings": self._settings()}
        if out.exists() and before and all(before.get(key) == value for key, value in made_from.items()):
            say(f"{out}: as it was written before")
            return made_from
        out.unlink(missing_ok=True)
        pack = write_pack(
            self._folder,
            out,
            config.inputs,
            predict=config.predict,
            name=config.name,
            max_gen_len=config.max_gen_len,
            max_seq_len=config.max_seq_len,
            say=say,
        )
        for line in pack.lines:
            say(line)
        return made_from

    def _settings(self) -> dict[str, Any]:
        """The settings and the hashes of the files of inputs, as JSON values."""
        config = self.config
        files = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in config.inputs}
        limits = {"max_gen_len": config.max_gen_len, "max_seq_len": config.max_seq_len}
        return {"name": config.name, "predict": config.predict, "inputs": files, **limits}

    def _requests(self, rows: Sequence[Row]) -> list[Request]:
        limit = self._timed_tokens
        listed = [
            right_requests(row.input, row.choices) if row.choices else [generation_request(row.input, limit)]
            for row in rows
        ]
        return [request for each in listed for request in each]


def _files(tasks: Sequence[object]) -> list[str]:
    """The files of questions in a task list, each once."""
    return list(dict.fromkeys(str(task["file"]) for task in tasks if isinstance(task, Mapping) and task.get("file")))


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """So many rows, evenly spread over the lengths of their inputs, the longest among them."""
    ordered = sorted(rows, key=lambda row: len(row.input))
    count = min(count, len(ordered))
    return [ordered[(place + 1) * len(ordered) // count - 1] for place in range(count)]


def _timed(pool: Pool, base: Recipe, name: str, requests: Sequence[Request]) -> float:
    """The seconds in which a worker answers requests with the base; RunError if it cannot."""
    pool.extend({name: requests})
    (outcome,) = pool.run(JobQueue([Job(base.key(), base, name)]))
    if outcome.error is not None:
        raise RunError(f"submission: the base cannot predict the inputs: {outcome.error}")
    return outcome.seconds
