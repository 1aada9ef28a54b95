"""Keys and parameters that mergekit takes without reading them, and tokenizers that change no row."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.families import save_tokenizer
from tests.parity.compare import assert_equal
from tests.parity.families import VOCABULARY, Family
from tests.parity.oracle import Oracle
from tests.parity.recipes import Recipe, entry, piece, recipe, sliced, weighted

pytestmark = pytest.mark.parity

Families = Callable[[str], Family]
Check = Callable[..., None]
WORDS = [*(f"w{n}" for n in range(VOCABULARY - 2)), "<unk>", "</s>"]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"

PASSED_OVER: dict[str, Callable[[Family], Recipe]] = {
    "lambda of nuslerp": lambda f: weighted("nuslerp", f, 0.4, 0.5, lambda_=0.5),
    "int8_mask of model_stock": lambda f: weighted("model_stock", f, 0.4, 0.5, int8_mask=True),
    "lambda of model_stock": lambda f: weighted("model_stock", f, 0.4, 0.5, lambda_=0.5),
    "lambda of arcee_fusion": lambda f: weighted("arcee_fusion", f, 0.4, lambda_=0.5),
    "weight of karcher": lambda f: weighted("karcher", f, 0.4, 0.9, base_model_weight=0.2),
    "density of linear": lambda f: recipe("linear", None, [entry(p, weight=0.4, density=0.5) for p in f.experts[:2]]),
    "rescale of task_arithmetic": lambda f: weighted("task_arithmetic", f, 0.4, 0.5, rescale=True, int8_mask=True),
    "epsilon, gamma of ties": lambda f: weighted("ties", f, 0.4, 0.5, epsilon=0.1, gamma=[0.1, 0.2]),
    "normalize of one model": lambda f: recipe(
        "ties", f.base, [entry(f.experts[0], weight=0.4, density=0.5, normalize=False), entry(f.experts[1], weight=0.7)]
    ),
    "settings of the base": lambda f: recipe(
        "ties", f.base, [entry(f.base, weight=1, density=0.3), entry(f.experts[0], weight=0.4)]
    ),
    "words": lambda f: weighted("task_arithmetic", f, 0.4, 0.5, variant="new", note=["a", "b"]),
    "keys of the document": lambda f: weighted("task_arithmetic", f, 0.4, 0.5) | {"name": "x", "embed_slerp": True},
    "layers of the models form": lambda f: recipe(
        "task_arithmetic", f.base, [entry(f.experts[0], weight=0.4) | {"layer_range": [0, 1]}]
    ),
    "keys of a slice": lambda f: sliced(
        "linear", None, [piece(0, f.layers, *(entry(p, weight=0.4) for p in f.experts[:2])) | {"residual_weight": 0.5}]
    ),
    "keys of a filter": lambda f: weighted("task_arithmetic", f, [{"fliter": "mlp", "value": 0.4}, {"value": 0.9}]),
    "the long form of a model": lambda f: recipe(
        "task_arithmetic", f.base, [{"model": {"model": {"path": f.experts[0]}}, "parameters": {"weight": 0.4}}]
    ),
}


@pytest.mark.parametrize("name", PASSED_OVER)
def test_passed_over(name: str, family: Families, check: Check) -> None:
    check(PASSED_OVER[name](family("llama")))


@pytest.fixture
def spoken(family: Families, tmp_path: Path) -> Family:
    """The family with one tokenizer for all."""
    members = family("llama")
    folders = [str(shutil.copytree(path, tmp_path / Path(path).name)) for path in (members.base, *members.experts[:2])]
    for folder in folders:
        save_tokenizer(WORDS, Path(folder))
    return Family(folders[0], tuple(folders[1:]), *(members.twin, members.far, members.mirror), members.layers)


ASKED: dict[str, Callable[[Family], dict[str, Any]]] = {
    "base": lambda f: {"tokenizer_source": "base"},
    "union": lambda f: {"tokenizer_source": "union"},
    "a model": lambda f: {"tokenizer_source": f.experts[0]},
    "nothing said": lambda f: {"tokenizer": {}},
    "all said": lambda f: {
        "tokenizer": {"source": "base", "tokens": {"w3": {"source": f.base}}, "pad_to_multiple_of": 8}
    },
    "template": lambda f: {"tokenizer_source": "base", "chat_template": TEMPLATE},
    "auto": lambda f: {"tokenizer_source": "union", "chat_template": "auto"},
}


@pytest.mark.parametrize("name", ASKED)
def test_tokenizers(name: str, spoken: Family, oracle: Oracle, ours: Callable[[Recipe], Path]) -> None:
    if name == "auto":
        for folder in spoken.experts:
            save_tokenizer(WORDS, Path(folder), TEMPLATE)
    merge = weighted("task_arithmetic", spoken, 0.4, 0.5) | ASKED[name](spoken)
    mine, theirs = ours(merge), oracle.merge(merge)
    assert_equal(mine, theirs)
    (a, b) = (AutoTokenizer.from_pretrained(folder) for folder in (mine, theirs))
    assert a.get_vocab() == b.get_vocab() and a.chat_template == b.chat_template
