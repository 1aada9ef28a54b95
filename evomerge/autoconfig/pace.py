"""How fast the base scores items here, for a few batch sizes: the fastest one is chosen, and the plan counts by it."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from evomerge.errors import ConfigError
from evomerge.experiment import Experiment
from evomerge.models import model_config, resolve_device
from evomerge.scoring import Chunk, Request
from evomerge.scoring.engine import Encoder, ScoringEngine

ON_CPU, ON_GPU = (4096, 2048, 8192), (4096, 16384, 65536)  # tokens in a batch; the first is the default
ITEMS = 24
WARM_UP = 2  # items
PATIENCE = 15.0  # seconds of one size after which no further size is tried
GAIN = 1.1  # a size other than the default must be so many times faster


@dataclass(frozen=True)
class Pace:
    """Items a second of one worker, with the number of tokens in a batch that is the fastest.

    `submission` is the number of seconds that the predictions of a submission take.
    """

    items_per_second: float
    batch_tokens: int
    submission: float = 0.0


def measure_pace(experiment: Experiment) -> Pace:
    """Load the base, and score a few items of the search slice with each size.

    A further size that does not fit into memory ends the trials. ConfigError where the default does not fit, TaskError
    where a prompt does not fit the model.
    """
    device = resolve_device(experiment.config.model.device)
    default, *others = ON_GPU if device.startswith("cuda") else ON_CPU
    items = tuple(item for chunk in experiment.scorer.plan.chunks["search"] for item in chunk.items)[:ITEMS]
    requests = experiment.scorer.requests(Chunk("pace", "search", items))
    try:
        score = _scoring(experiment, device)
        _seconds(score, experiment.scorer.requests(Chunk("pace", "search", items[:WARM_UP])), default)
        times = {default: _seconds(score, requests, default)}
    except torch.OutOfMemoryError:
        raise ConfigError(f"{experiment.base}: the memory of {device} does not hold it; use a larger device") from None
    with suppress(torch.OutOfMemoryError):
        for size in others:
            if max(times.values()) < PATIENCE:
                times[size] = _seconds(score, requests, size)
    fastest = min(times, key=times.__getitem__)
    chosen = fastest if times[default] > GAIN * times[fastest] else default
    submission = experiment.submission
    predicting = submission.prediction_seconds(lambda _, asked: _seconds(score, asked, chosen)) if submission else 0.0
    if submission:
        submission.refuse_beyond_hours(predicting)
    return Pace(len(items) / times[chosen], chosen, predicting)


_Score = Callable[[Sequence[Request], int], None]


def _scoring(experiment: Experiment, device: str) -> _Score:
    """A function that scores requests by the base, with so many tokens in a batch."""
    model, family = experiment.config.model, experiment.family
    live = family.load_model(dtype=model.dtype, device=device, attn_implementation=model.attn_implementation)
    tokenizer, config = family.load_tokenizer(), model_config(family.base.folder, model.trust_remote_code)

    def encoder(tokens: int) -> Encoder:
        return Encoder(tokenizer, config, max_length=model.max_length, batch_tokens=tokens)

    engine = ScoringEngine(live, tokenizer, encoder(model.batch_tokens), batch_size=model.batch_size)

    def score(requests: Sequence[Request], tokens: int) -> None:
        engine.forget()  # no prefix is cached from another size
        with torch.inference_mode():
            engine.respond(encoder(tokens).encode(requests))

    return score


def _seconds(score: _Score, requests: Sequence[Request], tokens: int) -> float:
    start = time.perf_counter()
    score(requests, tokens)
    return time.perf_counter() - start
