"""The rules about a model's place on the hub: uploaded before a day, public, and read at a commit."""

import re
from datetime import datetime
from pathlib import Path

from evomerge.rules.hub_record import DOWNLOADS, NO_COPY, RECORD_FILE
from evomerge.rules.judged_model import JudgedModel
from evomerge.rules.verdict import Verdict

COMMIT = re.compile(r"[0-9a-f]{40}")


def judge_upload_date(model: JudgedModel, limit: datetime) -> Verdict:
    """Whether the model was there before the day: its repository, and the revision that is read.

    A repository that is younger breaks the rule. An older one with later commits is unknown, because a commit may have
    changed the weights or the card alone.
    """
    record = model.record
    if isinstance(record, str):
        return Verdict("upload date", model.label, "unknown", record, NO_COPY)
    if record.created is not None and record.created >= limit:
        reason = f"uploaded on {_day(record.created)}, not before {_day(limit)}, says {record.source}"
        return Verdict("upload date", model.label, "broken", reason, "take a model that was uploaded before")
    if not record.commits:
        reason = f"{record.source} has no date of its last commit"
        return Verdict("upload date", model.label, "unknown", reason, f"save its answer again as {RECORD_FILE}")
    (_, newest), *older = record.commits
    if newest < limit:
        return Verdict("upload date", model.label, "ok", f"last changed on {_day(newest)}, says {record.source}")
    commit = next((commit for commit, date in older if date < limit), None)
    reason = f"the revision that is read is of {_day(newest)}, after {_day(limit)}, says {record.source}"
    remedy = f"give {model.path}@{commit}" if commit else f"give a commit from before {_day(limit)}"
    return Verdict("upload date", model.label, "unknown", reason, remedy)


def judge_public(model: JudgedModel) -> Verdict:
    """Whether everyone can download the model from the hub without asking."""
    record = model.record
    if isinstance(record, str):
        return Verdict("public", model.label, "unknown", record, NO_COPY)
    if record.private or record.gated:
        reason = f"{'private' if record.private else 'gated'}, says {record.source}"
        return Verdict("public", model.label, "broken", reason, "take a model that everyone can download")
    if record.private is None or record.gated is None:
        reason = f"{record.source} does not say whether it is gated"
        return Verdict("public", model.label, "unknown", reason, f"save its answer again as {RECORD_FILE}")
    return Verdict("public", model.label, "ok", f"public and not gated, says {record.source}")


def judge_revision(model: JudgedModel) -> Verdict:
    """Whether the model is read at a commit of the hub, which a recipe keeps."""
    if not model.is_local:
        if COMMIT.fullmatch(model.revision or ""):
            return Verdict("revision", model.label, "ok", f"commit {model.revision}, which the recipe keeps")
        reason = f"read at {model.revision or 'the newest commit'}, which may change"
        return Verdict("revision", model.label, "broken", reason, f"give {model.path}@COMMIT")
    if commit := _downloaded_commit(model.folder):
        return Verdict("revision", model.label, "ok", f"commit {commit}, says {model.folder / DOWNLOADS}")
    reason = "a local folder has no commit; the run keeps the SHA-256 of its weights"
    return Verdict("revision", model.label, "unknown", reason, "give OWNER/NAME@COMMIT instead of the folder")


def _downloaded_commit(folder: Path) -> str | None:
    """The commit that all files of a download have, if they have one."""
    files = sorted((folder / DOWNLOADS).glob("*.metadata"))
    commits = {file.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip() for file in files}
    commit = commits.pop() if len(commits) == 1 else ""
    return commit if COMMIT.fullmatch(commit) else None


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
