"""What `make test-bounds` gives pip as constraints: the `lowest` versions of pyproject.toml, or none: `newest`."""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXTRAS = ("dev",)


def lowest(project: dict[str, Any]) -> Iterator[str]:
    """name==version for each range but torch's, whose one build the Makefile names."""
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *(text for extra in EXTRAS for text in extras[extra])]:
        found = re.match(r"([\w.-]+)(?:\[.+\])?>=([\w.]+)", requirement)
        assert found, f"{requirement} has no lower bound"
        if found[1] != "torch":
            yield f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    table = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    print(*{"lowest": lowest(table), "newest": ()}[sys.argv[1]], sep="\n")
