"""Items scored per second on a device: token trees beside plain padded forward passes, on random weights."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from _gpu_family import DTYPE, Setting, peak_gb, random_model, start_peak
from _requests import SHAPES, random_pairs
from _rows import Contestant, Race, Row, timed
from transformers import PreTrainedModel

from evomerge.scoring.engine.batches import plan
from evomerge.scoring.engine.loglikelihood import TreeEngine
from evomerge.scoring.engine.tree import Costs, Pair

CASES = ("reading", "few-shot")
BATCH_TOKENS, STATES = 8192, 2048
OURS, PLAIN = "ours", "padded rows"


def run(name: str, setting: Setting) -> Iterator[Row]:
    """Two rows for each shape of items: items per second, and the peak of memory."""
    model = random_model(setting.size(name), DTYPE, setting.device)
    for key in CASES:
        shape = SHAPES[key]
        if setting.small:
            shape = replace(shape, items=3, context=12, answer=3)
        pairs = random_pairs(shape, model.config.vocab_size)
        works = {OURS: _trees(model, pairs), PLAIN: _rows(model, pairs)}
        peaks = {contestant: _peak(work, setting.device) for contestant, work in works.items()}
        contestants = {contestant: _contestant(work, setting.device) for contestant, work in works.items()}
        race = Race(repeats=3, limit=8.0, warm_up=False).run(contestants)
        for contestant in works:
            found = race.row(contestant, OURS)
            rate = shape.items / found["seconds"] if found["seconds"] else None
            case = {"case": f"score {name}: {shape.label}", **found}
            yield case | {"rate": rate, "unit": "items/s", "peak_gb": peaks[contestant]}


def _peak(work: Callable[[], object], device: str) -> float | None:
    """The peak of memory of one run, which also warms up."""
    start_peak(device)
    timed(work, device)
    return peak_gb(device)


def _contestant(work: Callable[[], object], device: str) -> Contestant:
    return lambda _: timed(work, device)


def _trees(model: PreTrainedModel, pairs: list[Pair]) -> Callable[[], object]:
    engine = TreeEngine(model)
    batches = plan(pairs, 8192, Costs(6 * model.config.hidden_size, BATCH_TOKENS, STATES))

    @torch.inference_mode()
    def run() -> None:
        engine.forget()  # as for a new candidate
        engine.score(batches)

    return run


def _rows(model: PreTrainedModel, pairs: list[Pair]) -> Callable[[], object]:
    """Each pair in a row of its own, the longest first, padded on the left; logits of the continuations alone."""
    ordered = sorted(pairs, key=lambda pair: -len(pair.context + pair.continuation))
    longest = len(ordered[0].context + ordered[0].continuation)
    count = max(1, BATCH_TOKENS // longest)
    batches = [ordered[start : start + count] for start in range(0, len(ordered), count)]

    @torch.inference_mode()
    def run() -> None:
        sums = [_row_sums(model, batch) for batch in batches]
        torch.cat(sums).tolist()

    return run


def _row_sums(model: PreTrainedModel, pairs: list[Pair]) -> torch.Tensor:
    width = max(len(pair.context + pair.continuation) for pair in pairs) - 1
    answer = max(len(pair.continuation) for pair in pairs)
    inputs = [(pair.context + pair.continuation)[:-1] for pair in pairs]
    tokens = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in inputs], device=model.device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in inputs], device=model.device)
    logits = model(input_ids=tokens, attention_mask=mask, logits_to_keep=answer, use_cache=False).logits
    targets = torch.tensor([[0] * (answer - len(p.continuation)) + list(p.continuation) for p in pairs]).to(tokens)
    chosen = logits.float().log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
    return (chosen * (targets > 0)).sum(-1)
