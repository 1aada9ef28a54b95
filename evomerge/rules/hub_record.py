"""What the hub says about a model: from its answer, or from a copy of the answer in the model's folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.hub import offline_reason
from evomerge.models import ADAPTER_WEIGHTS_FILE
from evomerge.parsing import parse_json
from evomerge.rules.packed import is_packed

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

RECORD_FILE = "model_info.json"  # the answer of https://huggingface.co/api/models/OWNER/NAME, saved by the user
NO_COPY = f"save the hub's answer about it as {RECORD_FILE} in its folder"
DOWNLOADS = Path(".cache", "huggingface", "download")  # where `hf download --local-dir` keeps the commit of each file


@dataclass(frozen=True)
class HubRecord:
    """The hub's facts about a model; `source` is where they were read. None means that the answer lacks a fact.

    `commits` are (commit, date), the revision that is read first, then older ones; from a copy only the newest of all.
    `packed` says that `parameters` counts integers that may each hold several.
    """

    source: str
    created: datetime | None
    commits: tuple[tuple[str, datetime], ...]
    gated: bool | str | None
    private: bool | None
    licences: tuple[str, ...]
    parameters: int | None
    packed: bool = False


def find_record(path: str, revision: str | None, folder: Path) -> HubRecord | str:
    """The record of a model from the hub, or from the copy in its folder, or the reason why there is none.

    A local folder is not looked up on the hub: nothing says of which model there it is a copy. A copy that came with
    the model's own files is not read, because its author may have written it.
    """
    copy = folder / RECORD_FILE
    is_local = Path(path).is_dir()
    offline = None if is_local else offline_reason()
    if not is_local and offline is None:
        return _from_hub(path, revision)
    if copy.is_file() and not copy.is_symlink() and not (folder / DOWNLOADS / f"{RECORD_FILE}.metadata").exists():
        return _from_copy(copy, None if is_local else path)
    return f"{offline or 'a local folder'}: the dates of its files are those of the download"


def _from_hub(path: str, revision: str | None) -> HubRecord | str:
    from huggingface_hub import HfApi  # slow import, and folders do not need it

    api = HfApi()
    try:
        info = api.model_info(path, revision=revision)
        commits = [(commit.commit_id, commit.created_at) for commit in api.list_repo_commits(path, revision=revision)]
        return _record(info, "the hub", commits, _parameters(info) or _adapter_parameters(path, info))
    except Exception as error:  # the hub client raises many unrelated classes, which mean the same to a user
        return f"the hub does not answer about it ({type(error).__name__})"


def _from_copy(copy: Path, expected: str | None) -> HubRecord | str:
    from huggingface_hub.hf_api import ModelInfo  # slow import, and folders without a copy do not need it

    try:
        info = ModelInfo(**parse_json(copy.read_text(encoding="utf-8"), repeated_keys=True))
        if expected is not None and info.id.lower() != expected.lower():
            return f"{copy} is about {info.id}"
        changed = info.last_modified
        commits = [(info.sha or "", changed)] if changed is not None else []
        return _record(info, f"{copy} about {info.id}", commits, _parameters(info))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{copy} is no answer of the hub ({type(error).__name__})"


def _record(
    info: "ModelInfo", source: str, commits: Sequence[tuple[str, datetime]], parameters: int | None
) -> HubRecord:
    card = info.card_data.to_dict() if info.card_data else {}
    licences = named_licences(card.get("license"), card.get("license_name"))
    tags = tuple(tag.partition(":")[2] for tag in info.tags or () if tag.startswith("license:"))
    gated, private = getattr(info, "gated", None), getattr(info, "private", None)
    packed = any(map(is_packed, info.safetensors.parameters)) if info.safetensors else False
    return HubRecord(source, info.created_at, tuple(commits), gated, private, licences or tags, parameters, packed)


def named_licences(licence: object, name: object) -> tuple[str, ...]:
    """The licences of a card's `license`, a name or a list; for `other`, its `license_name`."""
    given = licence if isinstance(licence, list) else [licence]
    texts = [str(entry).strip() for entry in given if entry]
    return tuple(str(name) if text.lower() == "other" and name else text for text in texts)


def _parameters(info: "ModelInfo") -> int | None:
    total = info.safetensors.total if info.safetensors else None
    return total if isinstance(total, int) else None


def _adapter_parameters(path: str, info: "ModelInfo") -> int | None:
    """The size of an adapter, for which the hub keeps no count, from the header of its file."""
    if not any(file.rfilename == ADAPTER_WEIGHTS_FILE for file in info.siblings or ()):
        return None
    from huggingface_hub import HfApi

    header = HfApi().parse_safetensors_file_metadata(path, ADAPTER_WEIGHTS_FILE, revision=info.sha)
    return sum(header.parameter_count.values())
