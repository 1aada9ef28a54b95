"""A candidate in vLLM's parameters: written there by the worker's materializer, checked, and asked for answers."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.errors import CandidateError, RunError
from evomerge.merging import FixedTensors, Materializer, fingerprint
from evomerge.models import Family
from evomerge.recipes import Recipe
from evomerge.scoring import Answer, Request
from evomerge.scoring.engine import Generator
from evomerge.scoring.vllm import ServingPlan, VLLMGenerator

log = logging.getLogger(__name__)

TRIALS, TRIAL_TOKENS = 8, 4  # answers that are compared with the loop's, and the tokens of each
AGREEING = 0.5  # of them must be equal in half precision


class ServedGenerator:
    """Writes candidates into the engine of vLLM when answers are wanted, and returns its answers.

    Keys and values of earlier candidates are discarded at each switch, and it is an error if vLLM still uses some.
    """

    def __init__(
        self,
        family: Family,
        materializer: Materializer,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        plan: ServingPlan,
        *,
        max_length: int,
        trust_remote_code: bool = False,
    ) -> None:
        base, start = family.base, time.monotonic()
        shapes = {name: tuple(base.shape(name)) for name in base.destination}
        options: dict[str, Any] = {"max_length": max_length, "trust_remote_code": trust_remote_code}
        self._generator = VLLMGenerator(model, tokenizer, base.folder, shapes, plan, **options)
        self._tensors = FixedTensors(self._generator.places)
        self._materializer = materializer
        self._recipe: Recipe | None = None  # that answers are wanted of
        self._loaded_key: str | None = None  # of the recipe whose weights the engine has
        log.info("vLLM is ready after %.0f s", time.monotonic() - start)

    def choose(self, recipe: Recipe) -> None:
        """Generate with this candidate from now on; it is written with the next request."""
        self._recipe = recipe

    def answer(self, requests: Sequence[Request]) -> list[Answer | list[Answer]]:
        """One answer per request; see `RequestReader.answer`."""
        if not requests:
            return []
        self._load()
        return self._generator.answer(requests)

    def fingerprint(self, recipe: Recipe) -> str:
        """The fingerprint of the candidate's weights in the engine's parameters."""
        self.choose(recipe)
        self._load()
        return fingerprint((name, place.tensor()) for name, place in self._generator.places.items())

    def refuse_other_weights(self, recipe: Recipe, expected: str) -> None:
        """RunError if the engine's parameters have another fingerprint than `expected`."""
        if (found := self.fingerprint(recipe)) != expected:
            raise RunError(
                f"vLLM has other weights than the recipe ({found[:16]} for {expected[:16]}); set scorer.generation=loop"
            )

    def refuse_other_answers(self, recipe: Recipe, loop: Generator, requests: Sequence[Request]) -> None:
        """RunError if vLLM answers otherwise than the decoding loop with the same weights.

        The fingerprint reads the weights by the places that wrote them, so it would not show that the engine uses them
        in another layout. In half precision some of the answers may differ, because nearly equal logits do.
        """
        trial = [_shortened(request) for request in requests[:TRIALS]]
        self.choose(recipe)
        pairs = list(zip(loop.answer(trial), self.answer(trial), strict=True))
        equal, exact = sum(ours == theirs for ours, theirs in pairs), loop.is_exact
        if equal < len(pairs) * (1.0 if exact else AGREEING):
            raise RunError(
                f"vLLM gives {equal} of {len(pairs)} trial answers of the decoding loop; set scorer.generation=loop"
            )

    def forget(self) -> None:
        """The engine's weights are unknown: write the next candidate whole."""
        self._loaded_key = None

    def _load(self) -> None:
        if self._recipe is None:
            raise CandidateError("no candidate was chosen")
        key = self._recipe.key()
        if key != self._loaded_key:
            self._loaded_key = None
            self._materializer.write(self._recipe, self._tensors)
            self._generator.forget()
            self._loaded_key = key


def _shortened(request: Request) -> Request:
    """The request for a few tokens, without sampling."""
    context, options = request.arguments
    plain = {"until": options.get("until", []), "max_gen_toks": TRIAL_TOKENS, "do_sample": False}
    return Request(request.kind, (context, plain))
