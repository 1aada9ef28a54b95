"""Keeps the text of the holdout items that winner and best baseline answer differently, for the report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.atomic import write_atomically
from evomerge.finalise import flipped_items, shown_flips
from evomerge.parsing import one_line
from evomerge.paths import FLIPS
from evomerge.scoring.tasks import LMEvalScorer
from evomerge.searching import Evaluator


def write_flip_texts(folder: Path, document: Mapping[str, Any], evaluator: Evaluator, scorer: LMEvalScorer) -> None:
    """Write flips.json: for the items that the report shows, the lines that a model reads."""
    keys = {row["label"]: row["key"] for row in document["rows"][:-1]}
    winner = evaluator.item_scores(document["winner"]["key"], "holdout")
    flips = flipped_items(winner, evaluator.item_scores(keys[document["best_baseline"]], "holdout"))
    shown = [flip.item for won in (True, False) for flip in shown_flips(flips, won)]
    texts = {item: _lines(item, scorer) for item in shown}
    write_atomically(folder / FLIPS, json.dumps(texts, indent=1) + "\n")


def _lines(item: str, scorer: LMEvalScorer) -> list[str]:
    try:
        return [_valid(line) for line in scorer.show_item(item)]
    except Exception as error:  # the code of a task; after a whole search it must not cost the result
        return [f"the item cannot be shown: {type(error).__name__}: {_valid(one_line(error))}"]


def _valid(text: str) -> str:
    """The text with a question mark for each half of a character, which JSON files of a run must not hold."""
    return text.encode(errors="replace").decode()
