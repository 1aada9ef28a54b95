"""The pages of the rooms: a room's public names, imported when one of them is first asked for.

Python would otherwise import torch, transformers and lm-eval, which takes many seconds, for a usage line or a misspelt
key. A page lists its names as ordinary imports under TYPE_CHECKING, so type checkers and editors follow them.
"""

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path


def on_demand(page: str, path: str) -> Callable[[str], object]:
    """The module `__getattr__` (PEP 562) of a page: each name comes from the file that the page imports it from.

    `page` is the page's `__name__` and `path` its `__file__`.
    """
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    origins = {alias.name: node.module or "" for node in imports for alias in node.names}

    def attribute(name: str) -> object:
        if not origins.get(name, "").startswith(f"{page}."):
            raise AttributeError(f"module {page!r} has no attribute {name!r}")
        found: object = getattr(importlib.import_module(origins[name]), name)
        setattr(sys.modules[page], name, found)
        return found

    return attribute
