"""Generated tokens per second on a device: the decoding loop beside transformers' own loop, on random weights."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _gpu_family import DTYPE, Setting, peak_gb, random_model, start_peak
from _rows import Contestant, Race, Row, timed
from transformers import PreTrainedModel

from evomerge.scoring.engine.caches import cache_argument, new_kv_cache
from evomerge.scoring.engine.decoding import DecodingLoop, PartialAnswer
from evomerge.scoring.engine.stops import StopSequences

ROWS, CONTEXT, ANSWER = 64, 128, 128
SMALL_ROWS, SMALL_CONTEXT, SMALL_ANSWER = 4, 12, 6
OURS, THEIRS = "ours", "transformers"
Measured = Callable[[str, Callable[[], object]], float]


@torch.inference_mode()
def decode(model: PreTrainedModel, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """The greedy tokens of each prompt by the decoding loop, as a search generates them."""
    ordered = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    answers = [PartialAnswer(row, new_tokens) for row in range(len(prompts))]
    tokens, mask = _padded([prompts[place] for place in ordered], model.device)
    tokenizer: Any = None  # no stop sequence is searched for
    generate: Any = model.generate
    generate(
        tokens,
        attention_mask=mask,
        max_length=tokens.shape[1] + new_tokens,
        custom_generate=DecodingLoop(answers, StopSequences(tokenizer, ())),
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        use_cache=True,
        **{cache_argument(model.prepare_inputs_for_generation): new_kv_cache(model)},
    )
    found = dict(zip(ordered, answers, strict=True))
    return [found[place].tokens for place in range(len(prompts))]


def _padded(prompts: list[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and attention mask, padded on the left."""
    width = max(map(len, prompts))
    tokens = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)


@torch.inference_mode()
def _by_transformers(model: PreTrainedModel, prompts: list[list[int]], new_tokens: int) -> None:
    tokens, mask = _padded(prompts, model.device)
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "use_cache": True}
    model.generate(tokens, attention_mask=mask, max_new_tokens=new_tokens, min_new_tokens=new_tokens, **options)


@torch.inference_mode()
def alone(model: PreTrainedModel, prompt: list[int], new_tokens: int) -> list[int]:
    """The greedy tokens of one prompt by transformers' own loop, without padding."""
    tokens = torch.tensor([prompt], device=model.device)
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "max_new_tokens": new_tokens}
    generate: Any = model.generate
    found: list[int] = generate(tokens, attention_mask=torch.ones_like(tokens), **options)[0, len(prompt) :].tolist()
    return found


def _contestant(measured: Measured, key: str, work: Callable[[], object]) -> Contestant:
    return lambda _: measured(key, work)


def run(name: str, setting: Setting) -> Iterator[Row]:
    """A row for each contestant: tokens per second of one batch, and the peak of memory."""
    rows, context, answer = (SMALL_ROWS, SMALL_CONTEXT, SMALL_ANSWER) if setting.small else (ROWS, CONTEXT, ANSWER)
    draw = random.Random(0)
    model = random_model(setting.size(name), DTYPE, setting.device)
    vocabulary = model.config.vocab_size
    prompts = [[draw.randrange(3, vocabulary) for _ in range(context)] for _ in range(rows)]
    peaks: dict[str, float | None] = {}

    def measured(contestant: str, work: Callable[[], object]) -> float:
        start_peak(setting.device)
        seconds = timed(work, setting.device)
        peaks[contestant] = peak_gb(setting.device)
        return seconds

    works: dict[str, Callable[[], object]] = {
        OURS: lambda: decode(model, prompts, answer),
        THEIRS: lambda: _by_transformers(model, prompts, answer),
    }
    race = Race(repeats=2, limit=20.0).run({key: _contestant(measured, key, work) for key, work in works.items()})
    case = f"generate {name}: {rows} prompts of {context} tokens, {answer} new"
    for key in works:
        found = race.row(key, OURS)
        rate = rows * answer / found["seconds"] if found["seconds"] else None
        yield {"case": case, **found, "rate": rate, "unit": "tokens/s", "peak_gb": peaks.get(key)}
