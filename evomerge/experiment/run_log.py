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
ADD_HANDLER = "addHandler"  # the method by which libraries add handlers


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
    shown = [handler for handler in (*root.handlers, *terminal) if type(handler) is logging.StreamHandler]
    try:
        for handler in (*terminal, file):
            root.addHandler(handler)
        for handler in shown:
            handler.addFilter(quiet)
        root.setLevel(min(root.level, logging.WARNING))
        ours.setLevel(logging.INFO)
        warnings.showwarning = _show_warning
        with _library_handlers(file, quiet):
            yield
    finally:
        warnings.showwarning = showwarning
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


class _OfLibrary(logging.Filter):
    """Of a library's own terminal handler: lets errors through, and writes all lines to the file.

    The lines of a logger that propagates are left to the handlers of the root. Those of other loggers, to which the
    same handler was added, pass.
    """

    def __init__(self, logger: logging.Logger, file: logging.Handler, quiet: logging.Filter) -> None:
        super().__init__(logger.name)
        self._logger, self._file, self._quiet = logger, file, quiet

    def filter(self, record: logging.LogRecord) -> bool:
        if not super().filter(record):
            return True
        if self._logger.propagate:
            return False
        self._file.handle(record)
        return bool(self._quiet.filter(record))


@contextmanager
def _library_handlers(file: logging.Handler, quiet: logging.Filter) -> Iterator[None]:
    """Filter the terminal handlers that libraries give their loggers, at import or later, such as at `ray.init`."""
    add_handler = logging.Logger.addHandler
    filtered: list[tuple[logging.Handler, logging.Filter]] = []

    def catch(logger: logging.Logger, handler: logging.Handler) -> None:
        is_terminal = isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
        if is_terminal and logger is not logging.root and logger.name.partition(".")[0] != OURS:
            filtered.append((handler, _OfLibrary(logger, file, quiet)))
            handler.addFilter(filtered[-1][1])

    def add(logger: logging.Logger, handler: logging.Handler) -> None:
        add_handler(logger, handler)
        catch(logger, handler)

    for logger in map(logging.getLogger, list(logging.root.manager.loggerDict)):
        for handler in list(logger.handlers):
            catch(logger, handler)
    setattr(logging.Logger, ADD_HANDLER, add)
    try:
        yield
    finally:
        setattr(logging.Logger, ADD_HANDLER, add_handler)
        for handler, of_library in filtered:
            handler.removeFilter(of_library)


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
