"""The file evomerge.log of a run: warnings and log lines that would otherwise stand between the lines of progress."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from evomerge.paths import LEDGER

LOG = "evomerge.log"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
OURS = "evomerge"


@contextmanager
def run_log(folder: Path) -> Iterator[None]:
    """Within the context, log lines and Python's warnings are written to the run's evomerge.log.

    The terminal keeps the warnings of this package and the errors of others. A run that is refused leaves no file.
    """
    root, ours, path = logging.getLogger(), logging.getLogger(OURS), folder / LOG
    levels, showwarning = (root.level, ours.level), warnings.showwarning
    with suppress(OSError):  # the ledger says what is wrong with the folder
        folder.mkdir(parents=True, exist_ok=True)
    file: logging.Handler = logging.NullHandler()
    if folder.is_dir():
        file = logging.FileHandler(path, delay=True, encoding="utf-8")
        file.setFormatter(logging.Formatter(FORMAT))
    quiet = _Terminal(max(root.level, logging.ERROR), max(ours.getEffectiveLevel(), logging.WARNING))
    terminal: list[logging.Handler] = (
        [] if root.handlers else [logging.StreamHandler()]
    )  # as Python does where nothing is configured
    silenced = _take_handlers()
    shown = [handler for handler in (*root.handlers, *terminal) if type(handler) is logging.StreamHandler]
    try:
        for handler in (*terminal, file):
            root.addHandler(handler)
        for handler in shown:
            handler.addFilter(quiet)
        root.setLevel(min(root.level, logging.WARNING))
        ours.setLevel(logging.INFO)
        for logger, _ in silenced:
            logger.addHandler(file)
        warnings.showwarning = _show_warning
        yield
    finally:
        warnings.showwarning = showwarning
        for logger, handlers in silenced:
            logger.removeHandler(file)
            for handler in handlers:
                logger.addHandler(handler)
        root.setLevel(levels[0])
        ours.setLevel(levels[1])
        for handler in shown:
            handler.removeFilter(quiet)
        for handler in (*terminal, file):
            root.removeHandler(handler)
        file.close()
        _forget(folder, path)


class _Terminal(logging.Filter):
    """Lets the package's warnings and the errors of other libraries through to the terminal."""

    def __init__(self, others: int, ours: int) -> None:
        super().__init__()
        self._others, self._ours = others, ours

    def filter(self, record: logging.LogRecord) -> bool:
        is_ours = record.name == OURS or record.name.startswith(f"{OURS}.")
        return record.levelno >= (self._ours if is_ours else self._others)


def _take_handlers() -> list[tuple[logging.Logger, list[logging.Handler]]]:
    """Remove the terminal handlers that libraries have given their own loggers, and return them."""
    found: list[tuple[logging.Logger, list[logging.Handler]]] = []
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        own: list[logging.Handler] = [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]
        if own and not logger.propagate and name.partition(".")[0] != OURS:
            found.append((logger, own))
            for handler in own:
                logger.removeHandler(handler)
    return found


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno, line)
    logging.getLogger("py.warnings").warning("%s", text.strip())


def _forget(folder: Path, path: Path) -> None:
    """Delete the log of a run that has not begun, and its folder if that is empty."""
    if not (folder / LEDGER).exists():
        with suppress(OSError):
            path.unlink(missing_ok=True)
            folder.rmdir()
