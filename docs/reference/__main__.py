"""`python -m docs.reference` writes docs/reference/commands.md and docs/reference/configuration.md."""

from pathlib import Path

from docs.reference.commands import commands_page
from docs.reference.configuration import configuration_page

FOLDER = Path(__file__).parent


def pages() -> dict[Path, str]:
    """The text of each page by its path."""
    return {FOLDER / "commands.md": commands_page(), FOLDER / "configuration.md": configuration_page()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
