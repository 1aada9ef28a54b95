"""The forward passes: log-likelihoods by token trees, generation, encoder-decoder models, and lm-eval's plain path.

An engine gets requests as token ids and batches and answers with the weights that the live model has at that moment. It
knows no task, metric or recipe. The rule: a fast path must give the plain path's numbers within rounding; where it
cannot, the plain path runs and one line says why.
"""

from typing import TYPE_CHECKING

from evomerge.lazy import on_demand

if TYPE_CHECKING:
    from evomerge.scoring.engine.decoding import NOT_FINITE, end_tokens
    from evomerge.scoring.engine.encoder import UNLIMITED, EncodedChunk, EncodedLoss, Encoder, check_tokenizer
    from evomerge.scoring.engine.generation import Generator
    from evomerge.scoring.engine.generation_options import GenerationOptions
    from evomerge.scoring.engine.losses import LossEngine
    from evomerge.scoring.engine.options import PATHS
    from evomerge.scoring.engine.prompts import Ids, Prompt, sample_seed
    from evomerge.scoring.engine.request_reader import RequestReader
    from evomerge.scoring.engine.scoring_engine import ScoringEngine
    from evomerge.scoring.engine.tree import Pair
else:
    __getattr__ = on_demand(__name__, __file__)

__all__ = [
    "NOT_FINITE",
    "PATHS",
    "UNLIMITED",
    "EncodedChunk",
    "EncodedLoss",
    "Encoder",
    "GenerationOptions",
    "Generator",
    "Ids",
    "LossEngine",
    "Pair",
    "Prompt",
    "RequestReader",
    "ScoringEngine",
    "check_tokenizer",
    "end_tokens",
    "sample_seed",
]
