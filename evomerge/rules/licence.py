"""The rule about licences: those that a model's card, its LICENSE file or the hub names, against the allowed ones."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from evomerge.rules.hub_record import RECORD_FILE, named_licences
from evomerge.rules.judged_model import JudgedModel
from evomerge.rules.verdict import Verdict

CARD = "README.md"
FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")
HEAD = 1500  # characters of a licence's text in which its title stands
UNNAMED = ("other", "unknown")
# Licence → a phrase near its beginning, in lower case and with single spaces. The first that fits is taken.
PHRASES = {
    "apache-2.0": r"apache license,? version 2\.0",
    "llama3": r"meta llama 3 community license",
    "llama2": r"llama 2 community license",
    "gemma": r"gemma terms of use",
    "cc-by-nc-sa-4.0": r"attribution-noncommercial-sharealike 4\.0 international",
    "cc-by-nc-nd-4.0": r"attribution-noncommercial-noderivatives 4\.0 international",
    "cc-by-nc-4.0": r"attribution-noncommercial 4\.0 international",
    "cc-by-sa-4.0": r"attribution-sharealike 4\.0 international",
    "cc-by-nd-4.0": r"attribution-noderivatives 4\.0 international",
    "cc-by-4.0": r"attribution 4\.0 international",
    "agpl-3.0": r"gnu affero general public license version 3",
    "lgpl-3.0": r"gnu lesser general public license version 3",
    "gpl-3.0": r"gnu general public license version 3",
    "mit": r"permission is hereby granted, free of charge, to any person obtaining a copy",
}


def judge_licence(model: JudgedModel, allowed: Sequence[str]) -> Verdict:
    """Whether all licences that are found are allowed; a card without any breaks the rule, no card is unknown.

    `license: other` counts by its `license_name`. Names are compared without case, spaces and dashes.
    """
    found = [*_named(model), *_recognised(model.folder)]
    known = {_plain(name) for name in allowed}
    refused = [entry for entry in found if _plain(entry[0]) not in {*known, *UNNAMED}]
    if refused:
        name, where = refused[0]
        remedy = f"take another model, or add {name} to rules.licences if it allows research and changed copies"
        return Verdict("licence", model.label, "broken", f"{name} ({where}) is not allowed", remedy)
    if accepted := [entry for entry in found if _plain(entry[0]) in known]:
        name, where = accepted[0]
        return Verdict("licence", model.label, "ok", f"{name} ({where})")
    return _missing(model, [name.lower() for name, _ in found])


def stated_licence(path: str, revision: str | None) -> str | None:
    """The licence that the card of a model, the hub or a LICENSE file names, the first that is found; None without."""
    model = JudgedModel(path, path, revision)
    found = (name for name, _ in (*_named(model), *_recognised(model.folder)) if _plain(name) not in UNNAMED)
    return next(found, None)


def _missing(model: JudgedModel, unnamed: Sequence[str]) -> Verdict:
    """The verdict where no licence has a name."""
    file = next((name for name in FILES if (model.folder / name).is_file()), None)
    if file or "other" in unnamed:
        reason = f"{file} is not one of the known texts" if file else "license: other, without license_name"
        return Verdict("licence", model.label, "unknown", reason, "read it; license_name in its card names it")
    remedy = f"ask its author, then write `license: NAME` in the head of its {CARD}"
    if (model.folder / CARD).is_file():
        reason = f"{model.folder / CARD} names no licence"
        return Verdict("licence", model.label, "broken", reason, remedy)
    if isinstance(model.record, str):
        reason = f"{model.folder} has no {CARD} and no {FILES[0]}, and the hub's answer is not there"
        remedy = f"download its {CARD}, or save the hub's answer as {RECORD_FILE} in its folder"
        return Verdict("licence", model.label, "unknown", reason, remedy)
    return Verdict("licence", model.label, "broken", f"{model.record.source} names no licence", remedy)


def _named(model: JudgedModel) -> Iterator[tuple[str, str]]:
    """The licences that the card names, else those that the hub names, each with the place where it was read."""
    card = model.folder / CARD
    head = _head(card) if card.is_file() else {}
    names = named_licences(head.get("license"), head.get("license_name"))
    if not names and not isinstance(model.record, str):
        yield from ((name, model.record.source) for name in model.record.licences)
    yield from ((name, CARD) for name in names)


def _head(card: Path) -> dict[str, object]:
    """The front matter of a model card; empty where there is none, or none that is YAML."""
    text = card.read_text(encoding="utf-8-sig", errors="replace")
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---", text, re.DOTALL)
    try:
        head = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, ValueError):  # a date that does not exist is no YAMLError
        return {}
    return head if isinstance(head, dict) else {}


def _recognised(folder: Path) -> Iterator[tuple[str, str]]:
    """The licence of each LICENSE file whose text is known."""
    for file in FILES:
        if (folder / file).is_file():
            text = (folder / file).read_text(encoding="utf-8", errors="replace")[:HEAD]
            text = " ".join(text.lower().split())
            if name := next((name for name, phrase in PHRASES.items() if re.search(phrase, text)), None):
                yield name, file


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "", name.lower())
