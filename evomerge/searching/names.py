"""The names that an objective may use: tasks, and the length of their answers."""

from collections.abc import Collection, Iterable, Sequence

from evomerge.errors import ConfigError
from evomerge.schema import as_yaml
from evomerge.scoring import TOKENS, length_of
from evomerge.suggest import did_you_mean


class Names:
    """The tasks of a scorer, `TASK.tokens` for each of the `generating` ones, and `tokens` for all of these together.

    If a single task generates answers, `tokens` is another name of its length. A task that has such a name itself goes
    before.
    """

    def __init__(self, tasks: Iterable[str], generating: Sequence[str]) -> None:
        self._tasks = tuple(tasks)
        self._lengths = {length_of(task): task for task in generating if length_of(task) not in self._tasks}

    def read(self, names: Collection[str], where: str) -> tuple[str, ...]:
        """The names, each once; ConfigError for one that is unknown, or that is the length of several tasks."""
        found = tuple(dict.fromkeys(self.one(name, where) for name in names))
        if TOKENS in found and TOKENS not in self._tasks:
            raise ConfigError(f"{where}: several tasks generate answers; name {' or '.join(self._lengths)}")
        return found

    def one(self, name: str, where: str) -> str:
        """A name in its full form; ConfigError if it is unknown."""
        if name in self._tasks or name in self._lengths:
            return name
        if name == TOKENS and self._lengths:
            return next(iter(self._lengths)) if len(self._lengths) == 1 else TOKENS
        if name == TOKENS or name.removesuffix(f".{TOKENS}") in self._tasks:
            who = "no task" if name == TOKENS else name.removesuffix(f".{TOKENS}")
            raise ConfigError(f"{where}: {who} generates answers, so there is no length '{as_yaml(name)}'; drop it")
        known = (*self._tasks, *self._lengths)
        raise ConfigError(f"{where}: {as_yaml(name)} is not one of the scorer's tasks{did_you_mean(name, known)}")

    def is_length(self, name: str) -> bool:
        """Whether a name in its full form is a measure of length."""
        return name in self._lengths or (name == TOKENS and name not in self._tasks)

    def task(self, name: str) -> str:
        """The task that a name in its full form belongs to; that of `tokens` is itself."""
        return self._lengths.get(name, name)
