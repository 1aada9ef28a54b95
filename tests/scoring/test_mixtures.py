"""Scoring of mixtures of experts: token trees, batches, and outputs of routers that nobody reads."""

import json
from pathlib import Path

import pytest
import torch

from evomerge.models.live_model import load_model
from evomerge.scoring.protocol import Request
from tests.models.mixtures import DEEPSEEK, mixture
from tests.scoring.conftest import Answers, char_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")
KINDS: dict[str, dict[str, int]] = {
    "mixtral": {},
    "olmoe": {},
    "qwen3_moe": {},
    "granitemoe": {},
    "deepseek_v3": DEEPSEEK,
}
ITEMS = [Request("loglikelihood", (f"{n}+{n}=", f"{answer}")) for n in (3, 14, 15, 92) for answer in (2 * n, n, "no")]
TOLERANCE = 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_trees_and_batches_give_the_log_likelihoods_of_single_items(kind: str, tmp_path: Path) -> None:
    tokenizer = char_tokenizer()
    sizes = {"vocab_size": len(tokenizer) + 3, "num_key_value_heads": 2, **KINDS[kind]}
    mixture(kind, tmp_path / "base", **sizes)
    model = load_model(tmp_path / "base", dtype="float32")
    trees, plain = (Answers(model, tokenizer, path=path) for path in ("auto", "plain"))
    assert trees.engine.plain_reason is None
    together = [value for value, _ in trees.respond(ITEMS)]
    for number, item in enumerate(ITEMS):
        ((alone, _),) = plain.respond([item])
        assert together[number] == pytest.approx(alone, abs=TOLERANCE)
    assert [value for value, _ in plain.respond(ITEMS)] == pytest.approx(together, abs=TOLERANCE)


@pytest.mark.parametrize("kind", ["mixtral", "olmoe", "granitemoe"])
def test_routers_return_no_logits(kind: str, tmp_path: Path) -> None:
    mixture(kind, tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "output_router_logits": True}))
    model = load_model(tmp_path / "base", dtype="float32")
    with torch.no_grad():
        assert model(input_ids=torch.arange(2, 10)[None]).get("router_logits") is None
