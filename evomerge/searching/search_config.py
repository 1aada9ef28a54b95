"""How a search proceeds: by generations, or asynchronously."""

from dataclasses import dataclass
from typing import Annotated

from evomerge.schema import OneOf

GENERATIONS, ASYNCHRONOUS = "generations", "asynchronous"


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """`mode` generations waits for all results of a generation, so that a search does not depend on the workers.

    With asynchronous, a candidate is proposed whenever a worker is free.
    """

    mode: Annotated[str, OneOf((GENERATIONS, ASYNCHRONOUS))] = GENERATIONS

    @property
    def is_asynchronous(self) -> bool:
        """Whether candidates are proposed while results are outstanding."""
        return self.mode == ASYNCHRONOUS
