"""MLflow: one run for each run folder, in a local database or on a tracking server."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.schema import Label
from evomerge.trackers._identity import run_identity
from evomerge.trackers._metrics import Table, flat_settings, result_metrics

PACKAGE = "mlflow"
IDENTITY_TAG, STEP_TAG, WINNER_TAG = "evomerge.id", "evomerge.last_step", "evomerge.fingerprint"
MAX_PARAMETER = 500  # characters, which every version of MLflow stores
BATCH = 100  # parameters of one call


class MLflow:
    """An MLflow run whose steps are those of a descent, then generations.

    It is found again by a tag with the identity of the folder, and the last step that it has is in a second tag.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], experiment: str, uri: str | None) -> None:
        import mlflow
        from mlflow import MlflowClient, entities

        mlflow.set_tracking_uri(uri or mlflow.get_tracking_uri())
        self._client: Any = MlflowClient()
        self._entities: Any = entities
        self._finished = False
        self._logged: str | None = None  # the fingerprint whose result the run has
        known = self._client.get_experiment_by_name(experiment)
        experiment_id = known.experiment_id if known else self._client.create_experiment(experiment)
        identity = run_identity(folder, "mlflow")
        found = self._client.search_runs([experiment_id], f"tags.`{IDENTITY_TAG}` = '{identity}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._last_step = int(found[0].data.tags.get(STEP_TAG, -1))
            self._logged = found[0].data.tags.get(WINNER_TAG)
            self._client.set_terminated(self._id, "RUNNING")
        else:
            name = str(config.get("name") or folder.name)
            made = self._client.create_run(experiment_id, tags={IDENTITY_TAG: identity}, run_name=name)
            self._id, self._last_step = made.info.run_id, -1
            self._log_parameters(flat_settings(config))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values, unless the run has them from an earlier session."""
        if step > self._last_step:
            tag = self._entities.RunTag(STEP_TAG, str(step))
            self._client.log_batch(self._id, self._metrics(values, step), tags=[tag])
            self._last_step = step

    def log_result(self, document: Mapping[str, Any], table: Table) -> None:
        """Log holdout scores and the winner's leads as metrics, the verdict as a tag, result.json as an artifact."""
        if self._logged != document["fingerprint"]:  # the command of a finished search can be repeated
            self._client.log_batch(self._id, self._metrics(result_metrics(table), max(0, self._last_step)))
        for name in ("verdict", "best_baseline", "fingerprint"):
            self._client.set_tag(self._id, f"evomerge.{name}", document[name])
        self._client.log_dict(self._id, dict(document), "result.json")
        self._finished = True

    def log_files(self, files: Sequence[Path]) -> None:
        """Store the files as artifacts of the run."""
        for file in files:
            self._client.log_artifact(self._id, str(file))

    def close(self) -> None:
        """End the run; it is marked as failed if the search did not finish."""
        self._client.set_terminated(self._id, "FINISHED" if self._finished else "FAILED")

    def _log_parameters(self, settings: Iterable[tuple[str, str]]) -> None:
        """Log the configuration; a resumed run keeps that of its start, because a parameter cannot change."""
        named = [self._entities.Param(_plain(key), text[:MAX_PARAMETER]) for key, text in settings]
        for start in range(0, len(named), BATCH):
            self._client.log_batch(self._id, params=named[start : start + BATCH])

    def _metrics(self, values: Mapping[str, float], step: int) -> list[Any]:
        now = int(time.time() * 1000)
        return [self._entities.Metric(_plain(name), value, now, step) for name, value in values.items()]


def create(
    folder: Path, config: Mapping[str, Any], *, experiment: Label = "evomerge", uri: Label | None = None
) -> MLflow:
    """A backend on the folder's MLflow run, which may be new; with `uri` None, MLflow's own settings decide."""
    return MLflow(folder, config, experiment, uri)


def _plain(name: str) -> str:
    """The name with a dash for each character that MLflow refuses."""
    return re.sub(r"[^\w./ -]", "-", name)
