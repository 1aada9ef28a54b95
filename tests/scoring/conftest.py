"""Random two-layer models over single characters, and task files written where the test runs."""

import json
import string
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from tokenizers.decoders import Fuse
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from evomerge.scoring.engine.encoder import Encoder
from evomerge.scoring.engine.scoring_engine import ScoringEngine
from evomerge.scoring.protocol import Request
from evomerge.scoring.tasks.lm_eval_scorer import LMEvalScorer
from evomerge.scoring.tasks.task_entries import ScorerConfig

CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if not loop.last or add_generation_prompt %};"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def char_tokenizer(bos: bool = True, eos: bool = False) -> PreTrainedTokenizerFast:
    """One token per character, with <s> in front and </s> behind as asked."""
    characters = string.ascii_letters + string.digits + string.punctuation + " \n"
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    tokenizer.decoder = Fuse()
    single = f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


@pytest.fixture(scope="session")
def chars() -> Callable[..., PreTrainedTokenizerFast]:
    return char_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = char_tokenizer()
    tokenizer.chat_template = CHAT
    return tokenizer


LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
MPT = {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaForCausalLM, LlamaConfig, LLAMA),
    "gpt2": (GPT2LMHeadModel, GPT2Config, GPT2),  # learned positions
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, LLAMA | {"sliding_window": 64, "head_dim": 8}),  # caps, windows
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, LLAMA),
    "mpt": (MptForCausalLM, MptConfig, MPT),  # positions are a bias of its own: no token trees
}


def random_model(family: str, **changes: Any) -> PreTrainedModel:
    """Weights large enough that the wrong mask or position shows."""
    kind, config, shape = FAMILIES[family]
    tokens = {"vocab_size": len(char_tokenizer()), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    torch.manual_seed(0)
    model: PreTrainedModel = kind(config(**tokens, **shape, initializer_range=0.5, **changes)).eval()
    return model


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    return random_model("llama")


def forwards(model: PreTrainedModel) -> list[tuple[int, ...]]:
    """The shapes of the token ids that the model is called with from now on."""
    shapes: list[tuple[int, ...]] = []

    def note(module: Any, arguments: Any, named: Any) -> None:
        shapes.append(tuple((arguments[0] if arguments else named["input_ids"]).shape))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return shapes


class Answers:
    """An engine that is asked in requests, as tests like to."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **options: Any) -> None:
        sizes = {key: options.pop(key) for key in ("max_length", "batch_tokens") if key in options}
        self.encoder = Encoder(tokenizer, model.config, **sizes)
        self.engine = ScoringEngine(model, tokenizer, self.encoder, **options)

    def respond(self, requests: Iterable[Request]) -> list[Any]:
        with torch.inference_mode():
            return self.engine.respond(self.encoder.work(tuple(requests)))


@pytest.fixture
def engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Answers:
    return Answers(model, tokenizer)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Iterable[Mapping[str, Any]]], str]:
    """Write rows to NAME.jsonl; the answer is the path."""

    def write(name: str, rows: Iterable[Mapping[str, Any]]) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def sums() -> Callable[..., list[dict[str, Any]]]:
    """Rows of a choice task: a sum, and two wrong answers."""

    def sums(count: int, start: int = 0) -> list[dict[str, Any]]:
        return [
            {"q": f"{i}+{i % 7}=", "choices": [f"{i}", f"{i + i % 7}", f"about {i}"], "gold": i % 3}
            for i in range(start, start + count)
        ]

    return sums


@pytest.fixture
def choice(write: Callable[..., str], sums: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The inline spec of a multiple-choice task over rows per split; lm-eval scores the first split."""

    def choice(name: str = "mc", rows: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        rows = rows or {"validation": sums(60)}
        files = {split: write(f"{name}-{split}", split_rows) for split, split_rows in rows.items()}
        return {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files, "cache_dir": str(tmp_path / "cache")},
            "test_split": next(iter(rows)),
            "output_type": "multiple_choice",
            "doc_to_text": "{{q}}",
            "doc_to_target": "gold",
            "doc_to_choice": "choices",
            "metric_list": [
                {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
                {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
            ],
            **changes,
        }

    return choice


@pytest.fixture
def freeze(tokenizer: PreTrainedTokenizerFast) -> Callable[..., LMEvalScorer]:
    """A scorer of entries, by default in slices of 20, 10 and 10."""

    def freeze(*tasks: Any, **options: Any) -> LMEvalScorer:
        settings = {"slices": {"search": 20, "select": 10, "holdout": 10}, "seed": 0, "tokenizer": tokenizer, **options}
        own = {key: settings.pop(key) for key in ("seed", "tokenizer")}
        return LMEvalScorer(ScorerConfig(tasks=list(tasks), **settings), **own)

    return freeze


@pytest.fixture
def score(engine: Answers) -> Callable[..., dict[str, float]]:
    """Item scores of whole slices, through requests, engine and grades."""

    def score(scorer: LMEvalScorer, *slices: str) -> dict[str, float]:
        chunks = [chunk for name in slices or ("search",) for chunk in scorer.plan.chunks[name]]
        scores: dict[str, float] = {}
        for chunk in chunks:
            scores |= scorer.grade(chunk, engine.respond(scorer.requests(chunk)))
        return scores

    return score
