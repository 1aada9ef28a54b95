"""flips.json: the text of items for the report, which never costs the result of a search."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from evomerge.experiment.flip_texts import write_flip_texts

DOCUMENT: dict[str, Any] = {
    "winner": {"key": "w"},
    "best_baseline": "base",
    "rows": [{"label": "base", "key": "b"}, {"label": "winner", "key": "w"}],
}
SCORES = {"w": {"t/0": 1.0, "t/1": 1.0, "t/2": 0.0}, "b": {"t/0": 0.0, "t/1": 1.0, "t/2": 1.0}}


def show_item(item: str) -> list[str]:
    if item == "t/2":
        raise KeyError("answer")
    return ["half of a character: \ud83d"]


def test_items_that_differ_have_their_text_or_the_reason_why_not(tmp_path: Path) -> None:
    evaluator = SimpleNamespace(item_scores=lambda key, _: SCORES[key])
    scorer = SimpleNamespace(show_item=show_item)
    write_flip_texts(tmp_path, DOCUMENT, cast(Any, evaluator), cast(Any, scorer))
    found = json.loads((tmp_path / "flips.json").read_text(encoding="utf-8"))
    assert found == {
        "t/0": ["half of a character: ?"],
        "t/2": ["the item cannot be shown: KeyError: 'answer'"],
    }
