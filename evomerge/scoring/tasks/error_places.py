"""The document and the field at which lm-eval failed, read from the frames of an exception."""

import traceback
from collections.abc import Mapping
from typing import Any

from evomerge.schema import as_yaml

FIELDS = {
    "doc_to_text": "doc_to_text",
    "doc_to_target": "doc_to_target",
    "doc_to_choice": "doc_to_choice",
    "doc_to_prefix": "gen_prefix",
    "process_results": "process_results",
}
MAX_COLUMNS = 8


def place_of(error: BaseException) -> str:
    """`document 17, doc_to_choice: ` for an error in a task's template or data; '' if it has no such place.

    Documents are counted from 0, as in the ids of items. The examples of a few-shot prompt have no number.
    """
    own = False
    row, field, document = None, None, None  # of the document that is being built, if one is
    for frame, _ in traceback.walk_tb(error.__traceback__):
        names, function = frame.f_locals, frame.f_code.co_name
        if "test_doc" in names:
            row, document = 0, names["test_doc"]
            if not isinstance(names.get("choice", ""), str):
                return f"document 0, doc_to_choice: {as_yaml(names['choice'])} is no text; "
            if names.get("choice") == "":
                return "document 0, doc_to_choice: a choice is empty; "
        elif function == "build_all_requests" and "doc_id" in names:
            row, document = names["doc_id"], names["doc"]
        elif function in FIELDS and field is None and isinstance(names.get("doc"), Mapping):
            field, own = FIELDS[function], names["doc"] is document
    if row is None and field is None:
        return ""
    where = "" if row is None else f"document {row}" if field is None or own else "a few-shot example"
    return f"{', '.join(filter(None, (where, field)))}: "


def columns_of(error: BaseException) -> list[str] | None:
    """The columns of the document that a template was rendered with; None if the error has no document."""
    found = [frame.f_locals.get("doc") for frame, _ in traceback.walk_tb(error.__traceback__)]
    documents = [doc for doc in found if isinstance(doc, Mapping)]
    return [str(name) for name in documents[-1]] if documents else None


def columns_remedy(error: BaseException) -> str:
    """What to do about a name that no column has, from the columns that there are; '' if they are not known."""
    columns = columns_of(error)
    if columns is None:
        return ""
    shown = ", ".join(columns[:MAX_COLUMNS]) + (" …" if len(columns) > MAX_COLUMNS else "")
    if len(columns) == 1 and (separator := next((mark for mark in ";\t|" if mark in columns[0]), None)):
        name: Any = separator.replace("\t", "\\t")
        return f'its data has a single column, {as_yaml(columns[0])}; set sep: "{name}" in its dataset_kwargs'
    return f"its data has the columns {shown}"
