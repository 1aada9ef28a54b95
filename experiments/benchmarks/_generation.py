"""Generation side by side: the Hugging Face class of lm-eval against the generation engine, on the same requests."""

import copy
import logging
from collections.abc import Sequence

from _rows import Race, Row, timed
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evomerge.scoring.engine.generation import Generator
from evomerge.scoring.protocol import Answer, Request

THEIRS, OURS = "lm-eval", "ours"


def compare(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    *,
    repeats: int = 3,
    batch_size: int = 16,
) -> list[Row]:
    """A row each: seconds and their ratio to ours, tokens of the answers, and how many answers are equal."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
    instances = [Instance("generate_until", {}, request.arguments, 0) for request in requests]
    generator = Generator(model, tokenizer)
    said: dict[str, list[str]] = {}

    def theirs() -> None:
        said[THEIRS] = lm.generate_until(instances, disable_tqdm=True)

    def ours() -> None:
        said[OURS] = [answer.text for answer in generator.answer(requests) if isinstance(answer, Answer)]

    device = str(model.device)
    contestants = {THEIRS: lambda _: timed(theirs, device), OURS: lambda _: timed(ours, device)}
    race = Race(repeats, limit=float("inf")).run(contestants)
    return [
        race.row(name, OURS)
        | {
            "tokens": sum(len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts),
            "equal": sum(map(str.__eq__, texts, said[THEIRS])),
            "answers": len(texts),
        }
        for name, texts in said.items()
    ]
