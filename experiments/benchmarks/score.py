"""How fast items are scored: the tree engine and lm-eval's HF class in turn, beside the best plain forward passes.

Usage: python experiments/benchmarks/score.py [--quick] [--json FILE] [--models 135M,FOLDER] [--cases reading,growth]
README.md beside this file says what the columns mean.
"""

import argparse
import gc
import logging
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from _families import SIZES
from _generation import compare
from _requests import SHAPES, Shape, file_pairs, file_questions, growth, random_pairs
from _rows import Race, Row, environment, print_table, ratio_cell, seconds_cell, timed, write_json
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from evomerge.models import load_model, torch_dtype
from evomerge.recipes import DTYPES
from evomerge.scoring.engine.encoder import EncodedChunk, Encoder
from evomerge.scoring.engine.loglikelihood import TreeEngine
from evomerge.scoring.engine.tree import Pair, build_trees
from evomerge.scoring.protocol import Request

LENGTHS = (32, 64, 128)  # of the rows of plain forward passes; the fastest counts
PLAIN = "plain forwards"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; what is misspelt ends the program with one line."""
    parser = argparse.ArgumentParser(description="benchmark of evomerge's scoring engine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, after each case")
    parser.add_argument("--quick", action="store_true", help="a tiny model and two repeats: shows that it runs")
    parser.add_argument(
        "--models", help=f"folders, or random weights of a size of {', '.join(SIZES)}; default 10M,135M"
    )
    parser.add_argument("--cases", help=f"of {', '.join([*SHAPES, 'growth'])}; default all but growth")
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="JSONL files of query, choices, gold, instead")
    parser.add_argument("--items", type=int, default=64, help="of each file")
    parser.add_argument("--shots", type=int, default=0, help="solved examples before each item of a file")
    parser.add_argument(
        "--generate", type=int, metavar="N", help="let the files' questions be answered in N tokens, too"
    )
    parser.add_argument("--repeats", type=int, help="default 3")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds of one contestant in one case")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=16, help="of lm-eval's class")
    options = parser.parse_args(arguments)
    options.models = (options.models or ("1M" if options.quick else "10M,135M")).split(",")
    options.repeats = options.repeats or (2 if options.quick else 3)
    options.shapes = _shapes(parser, options)
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: this machine has no CUDA device")
    return options


def _shapes(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Shape]:
    names = (options.cases or ",".join(SHAPES)).split(",")
    for name in names:
        if name not in (*SHAPES, "growth"):
            parser.error(f"--cases {name}: choose one of {', '.join([*SHAPES, 'growth'])}")
    found = [shape for n in names for shape in (growth(SHAPES["reading"]) if n == "growth" else [SHAPES[n]])]
    return [Shape(s.name, 4, s.choices, s.shots, 20, min(s.answer, 20)) for s in found] if options.quick else found


def open_model(name: str, options: argparse.Namespace) -> tuple[PreTrainedModel, Any]:
    """A checkpoint folder with its tokenizer, or random weights, whose speed is that of trained ones."""
    if name in SIZES:
        torch.manual_seed(0)
        config = SIZES[name].config()
        config.dtype = torch_dtype(options.dtype)
        with torch.device(options.device):
            model = LlamaForCausalLM(config).to(torch_dtype(options.dtype)).eval()
        return model.requires_grad_(False), _numbers(config.vocab_size)
    model = load_model(Path(name), dtype=options.dtype, device=options.device)
    return model, AutoTokenizer.from_pretrained(name)


def _numbers(vocabulary: int) -> PreTrainedTokenizerFast:
    """lm-eval wants a tokenizer, even where all requests are tokens."""
    from tokenizers import Tokenizer, models

    words = {"</s>": 0} | {str(i): i for i in range(1, min(vocabulary, 64))}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="</s>")), eos_token="</s>", pad_token="</s>"
    )


class Ours:
    """The tree engine on one case, its beginnings computed anew each time, as for a new candidate."""

    def __init__(self, model: PreTrainedModel, work: EncodedChunk) -> None:
        assert work.batches is not None
        self.engine, self.plan = TreeEngine(model), work.batches

    @torch.inference_mode()
    def __call__(self) -> list[tuple[float, bool]]:
        self.engine.forget()
        return self.engine.score(self.plan)


def harness(model: PreTrainedModel, tokenizer: Any, pairs: Sequence[Pair], batch_size: int) -> Callable[[], Any]:
    """lm-eval's class on the same tokens, without its tokenisation."""
    lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size, softmax_dtype="float32")
    asked = [(None, list(pair.context), list(pair.continuation)) for pair in pairs]
    return lambda: lm._loglikelihood_tokens(asked, disable_tqdm=True)


def plain(model: PreTrainedModel, tokens: int, states: int, length: int, batch_tokens: int) -> Callable[[], None]:
    """Ordinary forward passes over so many tokens in full rows, with logits at the same share of positions."""
    rows = max(1, batch_tokens // length)
    keep = max(1, round(length * states / tokens))
    ids = torch.randint(3, model.config.vocab_size, (rows, length), device=model.device)

    @torch.inference_mode()
    def run() -> None:
        left = tokens
        while left > 0:
            part = min(rows, -(-left // length))
            model(ids[:part], logits_to_keep=keep, use_cache=False)
            left -= part * length

    return run


def forward_share(model: PreTrainedModel, ours: Ours, device: str) -> float:
    """The share of scoring that is spent inside the model."""
    spent, forward = [0.0], model.forward

    def clocked(*arguments: Any, **named: Any) -> Any:
        out: list[Any] = []
        spent[0] += timed(lambda: out.append(forward(*arguments, **named)), device)
        return out[0]

    model.forward = clocked  # type: ignore[method-assign]
    try:
        total = timed(ours, device)
    finally:
        model.forward = forward  # type: ignore[method-assign]
    return spent[0] / total


def computed(model: PreTrainedModel, action: Callable[[], Any]) -> tuple[int, Any]:
    """The tokens that the model is called with, padding included, and the action's result."""
    counts: list[int] = []

    def note(module: Any, arguments: Any, named: Any) -> None:
        counts.append((arguments[0] if arguments else named["input_ids"]).numel())

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        result = action()
    finally:
        hook.remove()
    return sum(counts), result


def race(
    label: str, model: PreTrainedModel, tokenizer: Any, pairs: list[Pair], options: argparse.Namespace
) -> list[Row]:
    """The rows of one case."""
    encoder = Encoder(tokenizer, model.config, batch_tokens=options.batch_tokens)
    start = perf_counter()
    work = encoder.encode_pairs(pairs)
    planned = perf_counter() - start
    ours, theirs = Ours(model, work), harness(model, tokenizer, pairs, options.batch_size)
    assert work.batches is not None
    unique = sum(root.size for root in build_trees([pair.inputs(encoder.max_length) for pair in pairs]))
    states = sum(len(batch.states) for batch in work.batches.batches)
    own_tokens, own = computed(model, ours)
    their_tokens, their = computed(model, theirs)
    forwards = {f"{PLAIN} of {n}": plain(model, unique, states, n, options.batch_tokens) for n in LENGTHS}
    contestants = {"ours": ours, "lm-eval": theirs, **forwards}
    for action in forwards.values():
        action()
    runs = Race(options.repeats, options.limit, warm_up=False).run(  # counting has warmed up the others
        {name: lambda _, action=action: timed(action, options.device) for name, action in contestants.items()}
    )
    tokens = {"ours": own_tokens, "lm-eval": their_tokens}
    difference = max(abs(a - b) for (a, _), (b, _) in zip(own, their, strict=True))
    rows = []
    fastest = min(forwards, key=lambda name: statistics.median(runs.seconds[name]))
    for name in ("ours", "lm-eval", fastest):
        row = {"benchmark": "score", "case": label, "group": label} | runs.row(name, "ours")
        rows.append(row | {"tokens": tokens.get(name, unique), "unique": unique, "planned": None, "forward": None})
    rows[0] |= {"planned": planned, "forward": forward_share(model, ours, options.device), "difference": difference}
    return [row | {"difference": row.get("difference")} for row in rows]


def answered(label: str, path: Path, model: PreTrainedModel, tokenizer: Any, options: argparse.Namespace) -> list[Row]:
    """The rows of generated answers to a file's questions, behind the same solved ones."""
    wish = {"until": ["\n\n"], "max_gen_toks": options.generate, "do_sample": False}
    questions = file_questions(path, options.items, options.shots)
    requests = [Request("generate_until", (question, wish)) for question in questions]
    rows = compare(model, tokenizer, requests, repeats=options.repeats, batch_size=options.batch_size)
    blank = {"unique": None, "planned": None, "forward": None, "difference": None}
    return [{"benchmark": "score", "case": label, "group": label} | row | blank for row in rows]


def measure(options: argparse.Namespace) -> Iterator[list[Row]]:
    """The rows of one case after the other."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    for name in options.models:
        model, tokenizer = open_model(name, options)
        shown = Path(name).name
        for path in options.data:
            pairs = file_pairs(path, tokenizer, options.items, options.shots)
            label = f"{path.parent.name}/{path.stem}, {options.items} items, {options.shots}-shot, {shown}"
            yield race(label, model, tokenizer, pairs, options)
            if options.generate:
                yield answered(f"{label}, {options.generate} tokens", path, model, tokenizer, options)
        for shape in [] if options.data else options.shapes:
            pairs = random_pairs(shape, model.config.vocab_size)
            yield race(f"{shape.label}, {shown}", model, tokenizer, pairs, options)
        del model
        gc.collect()


COLUMNS: dict[str, Callable[[Row], str]] = {
    "case": lambda row: str(row["case"]),
    "contestant": lambda row: str(row["name"]),
    "seconds": seconds_cell,
    "× ours": ratio_cell,
    "tokens": lambda row: f"{row['tokens']:,}",
    "of unique": lambda row: f"{row['tokens'] / row['unique']:.2f}" if row["unique"] else "",
    "equal": lambda row: f"{row['equal']} of {row['answers']}" if "equal" in row else "",
    "in forwards": lambda row: "" if row["forward"] is None else f"{row['forward']:.1%}",
    "planned s": lambda row: "" if row["planned"] is None else f"{row['planned']:.3f}",
    "largest Δ": lambda row: "" if row["difference"] is None else f"{row['difference']:.1e}",
}


def main() -> None:
    """Measure, print, write."""
    options, rows = parse(), []
    torch.set_num_threads(options.threads)
    setting = environment(options.device, options.threads, dtype=options.dtype)
    for found in measure(options):
        rows += found
        if options.json:
            write_json(rows, options.json, setting)  # a long run that is stopped keeps its rows
    print_table(", ".join(f"{key} {value}" for key, value in setting.items()), COLUMNS, rows)


if __name__ == "__main__":
    main()
