"""A worker: one live model, the materializer that writes candidates into it, the engine that answers with it.

A worker knows chunks by their id and returns raw responses; tasks, metrics and scores are the driver's.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evomerge.errors import CandidateError
from evomerge.merging import COMPILE, Materializer, choose_placement, fingerprint
from evomerge.models import Family, load_model, load_tokenizer, resolve_device
from evomerge.recipes import Recipe
from evomerge.scoring import Request
from evomerge.scoring.engine import Encoder, ScoringEngine
from evomerge.workers.jobs import Job, Outcome, WorkerSpec

log = logging.getLogger(__name__)


class Worker:
    """Scores candidates in place; the model holds the last candidate written."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._work = dict(spec.work)
        self._family = Family(spec.base, spec.experts, spec.trust_remote_code)
        device = resolve_device(spec.device)
        folder = self._family.base.folder
        self._model = load_model(
            folder,
            dtype=spec.dtype,
            device=device,
            attn_implementation=spec.attn_implementation,
            trust_remote_code=spec.trust_remote_code,
            untied=self._family.base.untied,
        )
        self._materializer = Materializer(
            self._family,
            device,
            compiled=COMPILE[spec.compile],
            placement=choose_placement(spec.placement, self._family, device, spec.dtype, loaded=True),
            prepared=Path(spec.prepared) if spec.prepared else None,
        )
        tokenizer = load_tokenizer(folder, spec.trust_remote_code)
        self._encoder = Encoder(
            tokenizer, self._model.config, max_length=spec.max_length, batch_tokens=spec.batch_tokens
        )
        sizes = {"batch_size": spec.batch_size, "batch_tokens": spec.batch_tokens}
        self._engine = ScoringEngine(self._model, tokenizer, self._encoder, **sizes, path=spec.scoring)
        self._held: str | None = None

    def attempt(self, job: Job) -> Outcome:
        """Score one chunk; whatever goes wrong is the candidate's failure and comes back as a value."""
        start = time.perf_counter()
        try:
            responses = self._score(job)
        except CandidateError as error:
            return Outcome(job, error=str(error))
        except Exception as error:  # the one broad except: a candidate may fail in any way and the search goes on
            log.info("candidate %s failed", job.key, exc_info=True)
            self._held = None
            self._materializer.invalidate()  # whatever failed may have touched the model
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return Outcome(job, error=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        return Outcome(job, responses, seconds=time.perf_counter() - start)

    def extend(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """Know more chunks, by their requests: the same items in other batches."""
        self._work |= {chunk: self._encoder.work(asked) for chunk, asked in requests.items()}

    def fingerprint(self, recipe: Recipe) -> str:
        """The fingerprint of the candidate as it is scored, in this worker's dtype."""
        self._hold(recipe)
        return fingerprint(self._family.base.parameter_views(self._model).items())

    def _score(self, job: Job) -> list[Any]:
        self._hold(job.recipe)
        with torch.inference_mode():
            return self._engine.respond(self._work[job.chunk])

    def _hold(self, recipe: Recipe) -> None:
        key = recipe.key()
        if key != self._held:
            self._held = None  # a write that fails half-way leaves no candidate
            self._engine.forget()
            self._materializer.write(recipe, self._model)
            self._held = key
