"""A worker: one live model, the materializer that writes candidates into it, and the engine that evaluates it.

A worker gets chunk ids and returns raw responses. Tasks, metrics and scores stay in the driver process.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evomerge.errors import CandidateError
from evomerge.merging import COMPILE, Materializer, choose_placement, fingerprint
from evomerge.models import Family, resolve_device
from evomerge.recipes import Recipe
from evomerge.routing import RouterWork, calibrate_routers, router_names
from evomerge.scoring import Request
from evomerge.scoring.engine import EncodedChunk, Encoder, Generator, LossEngine, ScoringEngine
from evomerge.workers.jobs import Job, Outcome, Slopes, SlopeWork, WorkerSpec
from evomerge.workers.served_generator import ServedGenerator
from evomerge.workers.slopes import SlopeComputer

log = logging.getLogger(__name__)


class Worker:
    """Writes candidates into one model in place and computes the responses of their chunks."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._work, config = dict(spec.work), spec.model
        self._family = Family(spec.base, spec.experts, config.trust_remote_code, spec.tokenizer)
        device = resolve_device(config.device)
        if spec.gpu_bytes is not None and device.startswith("cuda"):
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, spec.gpu_bytes / total), device)
        limits: dict[str, Any] = {"limit": spec.gpu_bytes, "more": spec.more_bytes}
        placement = choose_placement(config.placement, self._family, device, config.dtype, loaded=False, **limits)
        self._model = self._family.load_model(
            dtype=config.dtype, device=device, attn_implementation=config.attn_implementation
        )
        self._materializer = Materializer(
            self._family,
            device,
            compiled=COMPILE[config.compile],
            placement=placement,
            prepared=Path(spec.prepared) if spec.prepared else None,
            resident=spec.flow_bytes > 0,
        )
        self._tokenizer = tokenizer = self._family.load_tokenizer()
        self._encoder = Encoder(
            tokenizer, self._model.config, max_length=config.max_length, batch_tokens=config.batch_tokens
        )
        self._served: ServedGenerator | None = None
        if spec.serving is not None:
            options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
            options["max_length"] = self._encoder.max_length
            parts = self._family, self._materializer, self._model, tokenizer, spec.serving
            self._served = ServedGenerator(*parts, **options)
        self._is_checked = False  # whether vLLM was compared with the live model
        self._engine = ScoringEngine(
            self._model,
            tokenizer,
            self._encoder,
            batch_size=config.batch_size,
            batch_tokens=config.batch_tokens,
            path=config.scoring,
            generator=self._served,
        )
        trees = self._engine.plain_reason is None
        losses = LossEngine(self._model, self._encoder, trees=trees, batch_tokens=config.batch_tokens)
        self._slopes = SlopeComputer(self._model, self._family.base, self._materializer, losses, spec.losses)
        self._loaded_key: str | None = None  # of the recipe that the model's weights are
        self._write_seconds = 0.0  # of the last job

    def attempt(self, job: Job) -> Outcome:
        """Compute the responses of one chunk; an exception is returned as the candidate's failure."""
        start, self._write_seconds = time.perf_counter(), 0.0
        responses, slopes = None, None
        try:
            if job.slope is None:
                responses = self._score(job)
            else:
                slopes = self._differentiate(job, job.slope)
        except CandidateError as error:
            return Outcome(job, error=str(error))
        except Exception as error:  # no failure of a candidate, of whatever kind, may end the search
            log.info("candidate %s failed", job.key, exc_info=True)
            self._forget_model()
            return Outcome(job, error=_reason(error))
        seconds = time.perf_counter() - start
        return Outcome(job, responses, seconds=seconds, slopes=slopes, write_seconds=self._write_seconds)

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """Add chunks by their requests (chunk id → requests); used when the search slice is regrouped."""
        self._work |= {chunk: self._encoder.encode(listed) for chunk, listed in requests.items()}

    def fingerprint(self, recipe: Recipe) -> str:
        """The fingerprint of the candidate's weights as they are scored, in this worker's dtype.

        RunError if vLLM has other weights than the live model.
        """
        self._load(recipe)
        places = self._materializer.live_tensors(self._model)
        found = fingerprint((name, place.tensor()) for name, place in places.items())
        if self._served:
            self._served.refuse_other_weights(recipe, found)
        return found

    def calibrate(self, recipe: Recipe, work: RouterWork) -> dict[str, NDArray[np.float32]]:
        """Router name → its weight [experts, hidden], fitted to these texts in the merged model.

        CandidateError if that fails, for whatever reason.
        """
        try:
            self._load(recipe)
            self._engine.forget()
            found = calibrate_routers(self._model, self._family, router_names(self._family), work)
        except CandidateError:
            raise
        except Exception as error:  # the search is finished and must keep its winner
            log.info("the routers of %s cannot be calibrated", recipe.key(), exc_info=True)
            self._forget_model()
            raise CandidateError(_reason(error)) from error
        return {name: weight.numpy() for name, weight in found.items()}

    def _score(self, job: Job) -> list[Any]:
        self._load(job.recipe)
        if self._served:
            if not self._is_checked:
                self._check_served(job.recipe, self._work[job.chunk])
            self._served.choose(job.recipe)
        with torch.inference_mode():
            return self._engine.respond(self._work[job.chunk])

    def _check_served(self, recipe: Recipe, chunk: EncodedChunk) -> None:
        """RunError if vLLM has other weights than the live model, or gives other answers."""
        assert self._served
        asked = [request for request in chunk.requests if request.kind == "generate_until"]
        if asked:
            self.fingerprint(recipe)
            loop = Generator(self._model, self._tokenizer, max_length=self._encoder.max_length)
            self._served.refuse_other_answers(recipe, loop, asked)
            self._is_checked = True

    def _differentiate(self, job: Job, work: SlopeWork) -> Slopes:
        self._load(job.recipe)
        self._engine.forget()  # activations take the memory of cached prefixes
        return self._slopes.compute(job.recipe, work)

    def _forget_model(self) -> None:
        """After a failure the model may have been written in part."""
        self._loaded_key = None
        if self._served:
            self._served.forget()
        self._materializer.invalidate()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load(self, recipe: Recipe) -> None:
        """Write the candidate into the model, unless it is there already."""
        key = recipe.key()
        if key != self._loaded_key:
            start = time.perf_counter()
            self._loaded_key = None  # a failed write leaves weights of no recipe
            self._engine.forget()
            self._materializer.write(recipe, self._model)
            self._loaded_key = key
            self._write_seconds += time.perf_counter() - start


def _reason(error: Exception) -> str:
    """The class and the first line of an exception."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
