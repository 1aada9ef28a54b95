"""Refusal of templates where lm-eval renders none: it would take them literally, and every model would be at chance."""

from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
from jinja2 import meta
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.utils import env

from evomerge.errors import TaskError
from evomerge.schema import as_yaml

REMEDIES = {
    "doc_to_choice": 'give one template of the whole list, such as doc_to_choice: "{{[a, b, c, d]}}"',
    "doc_to_target": 'give one template of the whole list, such as doc_to_target: "{{[first, second]}}"',
}
FIXED = "write the text itself, as lm-eval renders no template there"
MARKS = ("{{", "{%")


def refuse_unrendered(name: str, task: Task) -> None:
    """TaskError if a text that lm-eval takes as it is holds a template with a column of the task's data.

    A list of choices that has braces of its own, such as one about templates, names no column and is accepted.
    """
    if not isinstance(task, ConfigurableTask):
        return
    for field, text in _literal_texts(task.config):
        if _variables(text) & set(task.features):
            remedy = _corrected(field, getattr(task.config, field, None)) or REMEDIES.get(field, FIXED)
            raise TaskError(f"task '{name}': {field} holds {as_yaml(text)}, which lm-eval does not render; {remedy}")


def _literal_texts(config: Any) -> Iterator[tuple[str, str]]:
    """Field → a text that lm-eval uses without rendering it."""
    for field in ("doc_to_choice", "doc_to_target"):
        if isinstance(value := getattr(config, field), list | tuple | Mapping):
            yield from ((field, text) for text in (value.values() if isinstance(value, Mapping) else value))
    for field in ("target_delimiter", "fewshot_delimiter"):
        yield field, getattr(config, field)
    until = (config.generation_kwargs or {}).get("until") or []
    yield from (("generation_kwargs.until", text) for text in ([until] if isinstance(until, str) else until))


def _variables(text: Any) -> set[str]:
    """The names that a template refers to; none for a text without a template or with another use of braces."""
    if not isinstance(text, str) or not any(mark in text for mark in MARKS):
        return set()
    try:
        return meta.find_undeclared_variables(env.parse(text))
    except jinja2.TemplateSyntaxError:
        return set()


def _corrected(field: str, value: Any) -> str | None:
    """The form that works, for a list whose entries are one `{{…}}` each."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        return None
    texts = [text.strip() for text in value]
    inner = [text[2:-2].strip() for text in texts if text.startswith("{{") and text.endswith("}}")]
    if len(inner) < len(texts) or any("{{" in text for text in inner):
        return None
    return f'give {field}: "{{{{[{", ".join(inner)}]}}}}"'
