"""Findings about text: chat templates, vocabularies, special tokens and generation settings unlike the base's.

Files are compared as they are. A folder without a file of a kind, as those of most adapters, has nothing to compare.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.audit.finding import Finding, Kind, some
from evomerge.audit.named_bases import folder_of
from evomerge.audit.survey import Survey

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
FLAGS = ("add_bos_token", "add_eos_token")
IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
SECTIONS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")  # of tokenizer.json: how text is split
OTHER_FILES = ("tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt")
BY_ROW = ("tokenizer", "generation config")  # findings about row numbers
Json = Mapping[str, Any]


def tokenizers(survey: Survey) -> Iterator[Finding]:
    """One finding for each kind and way of differing, with all experts that differ so.

    What differs in row numbers alone is no finding where rows are matched by token.
    """
    base, vocabulary = survey.family.base.folder, survey.family.vocabulary
    is_aligned = vocabulary is not None and vocabulary.request is not None
    folders = {label: folder_of(expert) for label, expert in zip(survey.labels, survey.experts, strict=True)}
    checks: tuple[tuple[Kind, Callable[[Path, Path], str | None], str], ...] = (
        (
            "chat template",
            _other_template,
            "choose one: `tokenizer: {chat_template: …}` in the recipe, and score with it",
        ),
        (
            "tokenizer",
            _other_vocabulary,
            "set tokenizer.source=base, or union to keep all tokens: rows are then matched by token, not by number",
        ),
        (
            "special tokens",
            _other_special_names if is_aligned else _other_special_tokens,
            "score and serve with the base's tokenizer only if the experts stop with it; else align them",
        ),
        (
            "generation config",
            _other_generation,
            "the merged model has the base's; set eos_token_id to all tokens that end an answer",
        ),
    )
    for kind, check, remedy in checks:
        if is_aligned and kind in BY_ROW:
            continue
        found: dict[str, list[str]] = {}
        for label, folder in folders.items():
            if evidence := check(base, folder):
                found.setdefault(evidence, []).append(label)
        for evidence, labels in found.items():
            yield Finding(kind, tuple(labels), "warning", evidence, remedy)


def _json(path: Path) -> Json:
    """The object in a file, empty if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _template(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace").strip()
    found = _json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    return found.strip() if isinstance(found, str) and found.strip() else None


def _other_template(base: Path, folder: Path) -> str | None:
    own, expected = _template(folder), _template(base)
    if own is None or own == expected:
        return None
    if expected is None:
        start = own[:30] if len(own) < 30 else f"{own[:29]}…"
        return f"a chat template of {len(own)} characters ({start!r}), and the base has none"
    place = next(
        (i for i, (a, b) in enumerate(zip(own, expected, strict=False)) if a != b), min(len(own), len(expected))
    )
    return f"another chat template than the base's, from character {place} on: {own[place : place + 30]!r}"


def _vocabulary(tokenizer: Json) -> dict[int, str]:
    """Row → token, with the added tokens."""
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    entries = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(entries, dict):
        rows = {row: token for token, row in entries.items()}
    else:
        rows = {row: entry[0] for row, entry in enumerate(entries or ()) if isinstance(entry, list) and entry}
    known = [entry for entry in added if isinstance(entry, dict)] if isinstance(added, list) else []
    return rows | {entry["id"]: entry["content"] for entry in known if {"id", "content"} <= entry.keys()}


def _other_vocabulary(base: Path, folder: Path) -> str | None:
    own, expected = folder / "tokenizer.json", base / "tokenizer.json"
    if not (own.is_file() and expected.is_file()):
        return _other_files(base, folder)
    if _digest(own) == _digest(expected):
        return None
    one, other = _json(own), _json(expected)
    rows, base_rows = _vocabulary(one), _vocabulary(other)
    if differing := sorted(row for row in rows.keys() & base_rows.keys() if rows[row] != base_rows[row]):
        row = differing[0]
        tokens = f"{rows[row]!r}, in the base {base_rows[row]!r}"
        return f"{len(differing)} rows are other tokens, the first is row {row}: {tokens}"
    if rows.keys() != base_rows.keys():
        extra = sorted(rows.keys() - base_rows.keys()) or sorted(base_rows.keys() - rows.keys())
        token = rows.get(extra[0], base_rows.get(extra[0]))
        return f"{len(rows)} tokens, the base has {len(base_rows)}; {token!r} is in one of them only"
    changed = [name for name in SECTIONS if one.get(name) != other.get(name)]
    changed += ["merges"] if _merges(one) != _merges(other) else []
    return f"text is split in another way: {', '.join(changed)} of tokenizer.json" if changed else None


def _merges(tokenizer: Json) -> list[str]:
    """The merges of BPE, which are pairs or strings."""
    model = tokenizer.get("model")
    merges = (model.get("merges") if isinstance(model, dict) else None) or []
    return [entry if isinstance(entry, str) else " ".join(entry) for entry in merges]


def _other_files(base: Path, folder: Path) -> str | None:
    both = [name for name in OTHER_FILES if (base / name).is_file() and (folder / name).is_file()]
    changed = [name for name in both if _digest(base / name) != _digest(folder / name)]
    return f"other contents of {some(changed)}" if changed else None


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _other_special_tokens(base: Path, folder: Path, ignored: Collection[str] = ()) -> str | None:
    """What both have set, and set differently, in tokenizer_config.json and config.json."""
    one, other = (_special(_json(path / "tokenizer_config.json"), path) for path in (folder, base))
    keys = [key for key in one if key in other and key not in ignored]
    return "; ".join(f"{key} {one[key]!r} (base {other[key]!r})" for key in keys if one[key] != other[key]) or None


def _other_special_names(base: Path, folder: Path) -> str | None:
    """As `_other_special_tokens`, without numbers of rows."""
    return _other_special_tokens(base, folder, ignored=IDS)


def _special(settings: Json, folder: Path) -> dict[str, Any]:
    found = {key: settings[key] for key in (*SPECIAL, *FLAGS) if settings.get(key) is not None}
    found = {key: value.get("content") if isinstance(value, dict) else value for key, value in found.items()}
    config = _json(folder / "config.json")
    section = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    both = {**(section or {}), **config}
    return found | {key: both[key] for key in IDS if both.get(key) is not None}


def _other_generation(base: Path, folder: Path) -> str | None:
    one, other = (_json(path / "generation_config.json") for path in (folder, base))
    keys = [key for key in IDS if one.get(key) is not None and other.get(key) is not None]
    changes = [f"{key} {one[key]} (base {other[key]})" for key in keys if _tokens(one[key]) != _tokens(other[key])]
    return "; ".join(changes) or None


def _tokens(value: Any) -> set[Any]:
    return set(value) if isinstance(value, list) else {value}
