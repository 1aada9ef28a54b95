"""How fast answers are generated: lm-eval's HF class, the decoding loop and vLLM in turn, on the same prompts.

Usage: python experiments/benchmarks/generation.py MODEL_FOLDER [--data FILE.jsonl] [--json FILE] [--cases short,long]
Where vLLM is not installed its rows are left out. The ratio is to lm-eval's class; more is faster. With --continuous,
transformers' continuous batching takes part; the case `few` is for slow machines.
"""

import argparse
import copy
import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from _rows import environment, write_json
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer, ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from evomerge.merging import FixedTensors, Materializer, fingerprint
from evomerge.models import Family, load_model
from evomerge.recipes import ModelRef, Source, recipe_of_models
from evomerge.scoring import Request
from evomerge.scoring.engine import RequestReader
from evomerge.scoring.engine.generation import Generator
from evomerge.scoring.vllm import ServingPlan, VLLMGenerator

LM_EVAL, LOOP, VLLM, CONTINUOUS = "lm-eval", "loop", "vllm", "continuous batching"
MAX_LENGTH = 2048
PAGE = 256  # tokens of a block of continuous batching
Generate = Callable[[], list[str]]


@dataclass(frozen=True)
class Case:
    """So many prompts, each with solved examples before it, and the tokens of an answer."""

    prompts: int
    shots: int
    tokens: int


CASES = {
    "short": Case(64, 0, 32),
    "few-shot": Case(12, 5, 48),
    "long": Case(16, 0, 192),
    "many": Case(128, 0, 64),
    "few": Case(4, 0, 16),
}
DEFAULT_CASES = "short,few-shot,long"


def requests_of(case: Case, questions: Sequence[str]) -> list[Request]:
    """The prompts of a case; an answer ends at its limit or at the model's end token alone."""
    draw = random.Random(1)
    shots = "\n\n".join(draw.sample(list(questions), case.shots))
    options = {"until": ["<no such text>"], "max_gen_toks": case.tokens, "do_sample": False}
    chosen = (questions * case.prompts)[: case.prompts]
    return [Request("generate_until", (f"{shots}\n\n{text}" if shots else text, options)) for text in chosen]


def contestants(model: PreTrainedModel, tokenizer: Any, folder: Path, requests: list[Request]) -> dict[str, Generate]:
    """Name → what returns the texts of all answers."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=16)
    instances = [Instance("generate_until", {}, request.arguments, 0) for request in requests]
    loop = Generator(model, tokenizer, max_length=MAX_LENGTH)
    logging.info("the loop is refused: %s", loop.loop_refusal)  # its trial, once for a worker, is not measured
    found: dict[str, Generate] = {
        LM_EVAL: lambda: list(lm.generate_until(instances, disable_tqdm=True)),
        LOOP: lambda: [answer.text for answer in loop.answer(requests)],  # type: ignore[union-attr]
    }
    return found


def continuous(model: PreTrainedModel, tokenizer: Any, requests: list[Request]) -> Generate:
    """transformers' continuous batching; without shared blocks, which would survive a change of the weights."""
    generating: Any = copy.deepcopy(model)
    prompts = [tokenizer(request.arguments[0]).input_ids for request in requests]
    end = tokenizer.eos_token_id
    tokens = requests[0].arguments[1]["max_gen_toks"]
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=end, pad_token_id=end)
    blocks = sum(-(-(len(ids) + tokens) // PAGE) for ids in prompts) + 1  # by default most of the memory is taken
    settings = ContinuousBatchingConfig(
        allow_block_sharing=False, page_size=PAGE, num_blocks=blocks, max_batch_tokens=PAGE, use_async_batching=False
    )

    def generate() -> list[str]:
        found = generating.generate_batch(prompts, config, continuous_batching_config=settings, warmup=False)
        answers = {tuple(output.prompt_ids): output.generated_tokens for output in found.values()}
        return [tokenizer.decode(answers[tuple(ids)], skip_special_tokens=True) for ids in prompts]

    return generate


def served(model: PreTrainedModel, tokenizer: Any, folder: Path, requests: list[Request]) -> VLLMGenerator:
    """vLLM's engine for all these requests."""
    lengths = RequestReader(model.config, tokenizer, MAX_LENGTH).lengths(requests)
    family = Family(ModelRef(str(folder)), [])
    shapes = {name: tuple(family.base.shape(name)) for name in family.base.destination}
    plan = ServingPlan.of(model.config, model.dtype.itemsize, 0, lengths)
    return VLLMGenerator(model, tokenizer, folder, shapes, plan, max_length=MAX_LENGTH)


def switches(model: PreTrainedModel, engine: VLLMGenerator, folder: Path, times: int = 3) -> dict[str, Any]:
    """The seconds of writing a candidate into the live model, and into vLLM's parameters with its cache discarded."""
    ref = ModelRef(str(folder))
    family, tensors = Family(ref, []), FixedTensors(engine.places)
    materializer, spent = Materializer(family), dict[str, list[float]]()
    dtype = str(model.dtype).removeprefix("torch.")
    recipe = recipe_of_models("linear", None, (Source(ref, {"weight": 1.0}),), {}, out_dtype=dtype)
    for _ in range(times):
        for name, target in ((LOOP, model), (VLLM, tensors)):
            materializer.invalidate()
            start = time.perf_counter()
            materializer.write(recipe, target)
            if name == VLLM:
                engine.forget()
            spent.setdefault(name, []).append(time.perf_counter() - start)
    equal = fingerprint((n, p.tensor()) for n, p in engine.places.items()) == fingerprint(
        (n, p.tensor()) for n, p in materializer.live_tensors(model).items()
    )
    return {"case": "switch", "equal weights": equal} | {name: round(min(values), 3) for name, values in spent.items()}


def measure(name: str, found: dict[str, Generate], repeats: int, tokenizer: Any) -> list[dict[str, Any]]:
    """A row for each contestant: the best of its CPU seconds, its tokens, and how many answers equal lm-eval's."""
    texts: dict[str, list[str]] = {}
    spent: dict[str, list[float]] = {}
    for _ in range(repeats):
        for contestant, generate in found.items():
            start = time.process_time()
            texts[contestant] = generate()
            spent.setdefault(contestant, []).append(time.process_time() - start)
    rows = []
    for contestant, values in spent.items():
        tokens = sum(len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts[contestant])
        equal = sum(map(str.__eq__, texts[contestant], texts[LM_EVAL]))
        row = {"case": name, "contestant": contestant, "seconds": round(min(values), 2), "tokens": tokens}
        ratio = round(min(spent[LM_EVAL]) / min(values), 2)
        rows.append(row | {"ratio": ratio, "equal": f"{equal} of {len(texts[contestant])}"})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="benchmark of generation")
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, help="JSONL file with the key `query`")
    parser.add_argument("--cases", default=DEFAULT_CASES)
    parser.add_argument("--continuous", action="store_true", help="also transformers' continuous batching")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    questions = ["The capital of France is", "2 + 2 =", "Once upon a time"]
    if options.data:
        questions = [json.loads(line)["query"] for line in options.data.read_text().splitlines()]
    model, tokenizer = load_model(options.model, dtype=options.dtype), AutoTokenizer.from_pretrained(options.model)
    works = {name: requests_of(CASES[name], questions) for name in options.cases.split(",")}
    everything = [request for requests in works.values() for request in requests]
    engine = served(model, tokenizer, options.model, everything) if find_spec("vllm") else None
    rows: list[dict[str, Any]] = []
    for name, requests in works.items():
        found = contestants(model, tokenizer, options.model, requests)
        if engine:
            found[VLLM] = _of_engine(engine, requests)
        if options.continuous:
            found[CONTINUOUS] = continuous(model, tokenizer, requests)
        rows += measure(name, found, options.repeats, tokenizer)
        for row in rows[-len(found) :]:
            logging.info("%s", row)
    if engine:
        rows.append(switches(model, engine, options.model))
        logging.info("%s", rows[-1])
    if options.json:
        write_json(rows, options.json, environment("cpu", 1))


def _of_engine(engine: VLLMGenerator, requests: list[Request]) -> Generate:
    def generate() -> list[str]:
        engine.forget()  # as for a new candidate
        return [answer.text for answer in engine.answer(requests)]  # type: ignore[union-attr]

    return generate


if __name__ == "__main__":
    main()
