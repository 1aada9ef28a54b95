"""One item of a task as a model reads it, in lines for a person: prompt, choices, target, stop strings."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from evomerge.scoring.tasks.frozen_docs import FrozenDoc, TaskGrader
from evomerge.scoring.tasks.item_losses import item_loss

MAX_TEXT = 1200  # characters of a prompt that are shown
MAX_CHOICE = 200
MARKS = str.maketrans({" ": "·", "\t": "→", "\r": "␍"})  # for whitespace at the end of a line


def show_item(item: str, grader: TaskGrader, doc: FrozenDoc, chat: bool) -> Iterator[str]:
    """The lines of an item; whitespace at the end of a line is visible, long texts are shortened in the middle."""
    requests = doc.requests()
    kind, (first, *_) = requests[0].kind, requests[0].arguments
    yield f"{item}, scored by {grader.metric} of {grader.task.OUTPUT_TYPE}"
    if grader.task.OUTPUT_TYPE == "multiple_choice":
        yield from _choices(item, grader, doc, chat)
        return
    yield from _prompt("text" if kind == "loglikelihood_rolling" else "prompt", str(first))
    if kind == "generate_until":
        options = dict(requests[0].arguments[1])
        until = options.pop("until", [])
        yield f"stops at  {', '.join(map(_quoted, [until] if isinstance(until, str) else until)) or 'the end token'}"
        yield f"generate  {', '.join(f'{key}={value}' for key, value in options.items()) or 'by default options'}"
        yield f"target    {_target(grader, doc)}"
    elif kind == "loglikelihood":
        yield f"target    {_quoted(requests[0].arguments[1])}"


def _choices(item: str, grader: TaskGrader, doc: FrozenDoc, chat: bool) -> Iterator[str]:
    """The choices with the right one marked; several contexts of one continuation are choices themselves."""
    loss = item_loss(item, grader, doc, chat)
    requests = loss.requests if loss else doc.requests()
    contexts, texts = zip(*(request.arguments for request in requests), strict=True)
    if len(set(contexts)) == 1:
        yield from _prompt("prompt", contexts[0])
    else:
        texts = tuple(f"{context}|{text}" for context, text in zip(contexts, texts, strict=True))
    for place, text in enumerate(texts):
        right = "   ← right" if loss and place == loss.gold else ""
        yield f"choice {place}  {_quoted(text)}{right}"
    if not loss:
        yield f"target    {_target(grader, doc)}"


def _prompt(name: str, text: str) -> Iterator[str]:
    for place, line in enumerate(_shortened(text, MAX_TEXT).split("\n")):
        ending = line[len(line.rstrip()) :]
        yield f"{name if place == 0 else '':<9} │{line.rstrip()}{ending.translate(MARKS)}"


def _target(grader: TaskGrader, doc: FrozenDoc) -> str:
    try:
        return _quoted(grader.task.doc_to_target(doc.instances[0].doc))
    except Exception:  # a task may have no target, or compute it by code that fails
        return "known to the task's own code alone"


def _quoted(value: Any) -> str:
    """A text in quotes, so that spaces and line breaks at its ends show; lists entry by entry."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_quoted, value))
    return json.dumps(_shortened(value, MAX_CHOICE), ensure_ascii=False) if isinstance(value, str) else str(value)


def _shortened(text: str, limit: int) -> str:
    """The text, or its first and last part with the number of characters between them."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} […{len(text) - 2 * half} characters…] {text[-half:]}"
