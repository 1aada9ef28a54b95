"""scoring.engine."""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.scoring.engine.encoder import MANY, Encoder, Work, check_tokenizer
    from evomerge.scoring.engine.scoring_engine import PATHS, ScoringEngine
    from evomerge.scoring.engine.tree import Pair
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "MANY",
    "PATHS",
    "Encoder",
    "Pair",
    "ScoringEngine",
    "Work",
    "check_tokenizer",
]
