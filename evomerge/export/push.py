"""Uploads an exported folder to the Hugging Face hub as one commit, without a path of this machine in it."""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, EvomergeError, RunError
from evomerge.export.licences import UNDECIDED
from evomerge.export.origins import Origins
from evomerge.export.reproduction import REPRODUCE, merge_command
from evomerge.hub import offline_reason
from evomerge.models import ADAPTER_CONFIG_FILE
from evomerge.parsing import one_line
from evomerge.recipes import Recipe, load_recipe, original_recipe

log = logging.getLogger(__name__)

REPOSITORY = r"(?!.*(--|\.\.|\.git$))[A-Za-z0-9][\w-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}(?<![.-])"  # as the hub checks it
RECIPE_FILE, CARD = "recipe.yaml", "README.md"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*", "adapter_model*", ADAPTER_CONFIG_FILE)
WITH_PATHS = (RECIPE_FILE, ADAPTER_CONFIG_FILE)  # files that name models as this machine does


@dataclass(frozen=True)
class PushTarget:
    """A repository of the hub, such as `owner/name`; it is made, private if that is wished, where it is not there."""

    repository: str
    private: bool = False

    def refuse_unreachable(self) -> None:
        """ConfigError for a wrong name or a missing or weak token, RunError without a network; changes nothing."""
        from huggingface_hub import HfApi, get_token

        if not re.fullmatch(REPOSITORY, self.repository):
            raise self._refusal("give OWNER/NAME, of letters, digits, dashes, underscores and dots")
        if get_token() is None:
            raise self._refusal("no token of the hub; run `hf auth login`, or set HF_TOKEN")
        if reason := offline_reason():
            raise RunError(f"push {self.repository}: {reason}; merge without --push, and repeat it with --push later")
        try:
            user = HfApi().whoami()
        except Exception as error:  # the client's exceptions differ between versions
            raise self._refusal(f"the hub refuses the token ({one_line(error)}); run `hf auth login`") from None
        self._refuse_weak_token(user, self.repository.partition("/")[0])

    def push(self, folder: Path) -> str:
        """Upload the folder; returns the address of the repository.

        Weights of an earlier model in the repository are deleted in the same commit, because a loader could prefer
        them. RunError if the upload fails, or if the repository is public and should be private; the folder stays.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        _warn_of_no_licence(folder)
        message = f"Merge by evomerge, fingerprint {recorded_fingerprint(folder)[:16]}"
        try:
            api = HfApi()
            address = api.create_repo(self.repository, private=self.private or None, exist_ok=True)
            there = api.model_info(self.repository)
            self._refuse_public(bool(there.private))
            files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in _files(folder)]
            stale = _stale({one.rfilename for one in there.siblings or ()} - {file.path_in_repo for file in files})
            changes: list[Any] = [*files, *(CommitOperationDelete(path_in_repo=name) for name in stale)]
            api.create_commit(self.repository, changes, commit_message=message)
        except Exception as error:  # the client's exceptions differ between versions
            raise RunError(
                f"{folder}: written, but not pushed to {self.repository} ({one_line(error)}); "
                "repeat the command to push it: nothing is merged again"
            ) from None
        return str(address)

    def _refusal(self, reason: str) -> ConfigError:
        return ConfigError(f"push {self.repository}: {reason}")

    def _refuse_public(self, is_private: bool) -> None:
        if self.private and not is_private:
            raise RunError("it is there already and is public; make it private at the hub, or leave out --private")

    def _refuse_weak_token(self, user: dict[str, Any], owner: str) -> None:
        token = (user.get("auth") or {}).get("accessToken") or {}
        if token.get("role") == "read":
            raise self._refusal("the token can only read; make one that can write at the hub's settings/tokens")
        owners = [str(user.get("name")), *(str(one.get("name")) for one in user.get("orgs") or ())]
        if owner.lower() not in map(str.lower, owners):
            raise self._refusal(f"the token is of {owners[0]}; give one of the owners {', '.join(owners)}")


def _stale(names: Iterable[str]) -> list[str]:
    """Of the files of a repository that the upload does not replace, those that a loader takes for the model."""
    return sorted(name for name in names if any(fnmatch(name, pattern) for pattern in WEIGHTS) and "/" not in name)


def merge_and_push(
    target: PushTarget, source: Path | Recipe, out: Path, options: str, merge: Callable[[], str]
) -> tuple[str | None, str]:
    """Check the target, merge, and push the folder `out`; returns what `merge` returns and the repository's address.

    A folder that has the same merge, made with the same `options` of the command, is pushed as it is: None.
    """
    target.refuse_unreachable()
    made = None if _holds(source, out, options) else merge()
    return made, target.push(out)


def _warn_of_no_licence(folder: Path) -> None:
    """Log the line of the model card that leaves the licence to the user, where there is one."""
    card = folder / CARD
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    for line in lines:
        if line.startswith(UNDECIDED):
            log.warning("%s", line)


def recorded_fingerprint(folder: Path) -> str:
    """The fingerprint in an exported folder's reproduce.json; empty where there is none."""
    return str(_reproduction(folder).get("fingerprint", ""))


def _holds(source: Path | Recipe, out: Path, options: str) -> bool:
    """Whether the folder has the merge of the recipe, made with these options."""
    if _reproduction(out).get("commands", {}).get("merge") != merge_command(options):
        return False
    try:
        there = original_recipe(load_recipe(out / RECIPE_FILE)).key()
        return there == original_recipe(load_recipe(source) if isinstance(source, Path) else source).key()
    except EvomergeError:
        return False


def _reproduction(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / REPRODUCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _files(folder: Path) -> Iterator[tuple[str, Path | bytes]]:
    """Path in the repository → file, or its text where that would name a folder of this machine."""
    origins = Origins(load_recipe(folder / RECIPE_FILE))
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        yield name, origins.text(file.read_text(encoding="utf-8")).encode() if name in WITH_PATHS else file
