"""Lazy imports for the `__init__.py` of the rooms: a public name is imported when it is first used.

Otherwise `--help` or a misspelt key would import torch, transformers and lm-eval, which takes many seconds. An
`__init__.py` lists its names as ordinary imports under TYPE_CHECKING, so type checkers and editors resolve them.
"""

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path


def on_demand(page: str, path: str) -> Callable[[str], object]:
    """The module-level `__getattr__` (PEP 562) of a package; it imports names as its `__init__.py` lists them.

    `page` is the package's `__name__` and `path` the `__file__` of its `__init__.py`.
    """
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))  # `if TYPE_CHECKING:`
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    origins = {alias.name: node.module or "" for node in imports for alias in node.names}
    module = sys.modules[page]
    vars(module)["__dir__"] = lambda: sorted({*vars(module), *origins})  # for completion in a notebook

    def attribute(name: str) -> object:
        if not origins.get(name, "").startswith(f"{page}."):
            raise AttributeError(f"module {page!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(origins[name]), name)
        setattr(sys.modules[page], name, value)
        return value

    return attribute
