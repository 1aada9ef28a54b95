"""Requests about the tokenizer that change no row, chat templates, and requests that are refused by their key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from evomerge.errors import ExpertError
from evomerge.export import merge_recipe
from tests.families import Folders, save_family, save_tokenizer

WORDS = [*(f"w{n}" for n in range(35)), "<unk>", "</s>"]  # one for each row of the models
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
Merge = Callable[..., Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folder = tmp_path_factory.mktemp("models")
    made = save_family("llama", folder, experts=2)
    for name in ("base", "e0", "e1"):
        save_tokenizer(WORDS, folder / name)
    save_tokenizer(WORDS, folder / "chatty", template=f"{TEMPLATE} ")
    return made


@pytest.fixture
def merge(folders: Folders, tmp_path: Path) -> Merge:
    """Merge the two experts with these further keys; {folder} stands for where the tokenizers are."""
    where = str(Path(folders.base.path).parent)

    def made(**keys: Any) -> Path:
        models = [{"model": ref.path, "parameters": {"weight": 0.5}} for ref in folders.experts]
        document = {"merge_method": "task_arithmetic", "base_model": folders.base.path, "models": models, **keys}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document).replace("{folder}", where))
        merge_recipe(tmp_path / "recipe.yaml", tmp_path / "out")
        return tmp_path / "out"

    return made


@pytest.mark.parametrize(
    "keys",
    [
        {"tokenizer_source": "base"},
        {"tokenizer_source": "union"},
        {"tokenizer_source": "{folder}/chatty"},
        {"tokenizer": {}},
        {"tokenizer": {"source": "base", "tokens": {"w3": {"source": "{folder}/e0"}}, "pad_to_multiple_of": 37}},
    ],
    ids=str,
)
def test_what_changes_no_row_is_merged_and_stays_in_the_recipe(keys: dict[str, Any], merge: Merge) -> None:
    out = merge(**keys)
    assert AutoTokenizer.from_pretrained(out).get_vocab() == {word: row for row, word in enumerate(WORDS)}
    assert keys.keys() <= yaml.safe_load((out / "recipe.yaml").read_text()).keys()


def test_a_tokenizer_that_is_not_there_is_refused(merge: Merge) -> None:
    with pytest.raises(ExpertError, match="nowhere"):
        merge(tokenizer_source="{folder}/nowhere")


@pytest.mark.parametrize("asked", ["base", "union"])
def test_an_expert_without_a_tokenizer_has_the_bases(asked: str, tmp_path: Path) -> None:
    folders = save_family("llama", tmp_path, experts=1)
    save_tokenizer(WORDS, tmp_path / "base")
    models = [{"model": folders.experts[0].path, "parameters": {"weight": 0.5}}]
    document = {"merge_method": "task_arithmetic", "base_model": folders.base.path, "models": models}
    for name, keys in {"asked": {"tokenizer_source": asked}, "plain": {}}.items():
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({**document, **keys}))
        merge_recipe(tmp_path / "r.yaml", tmp_path / name)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("asked", "plain")]
    assert weights[0] == weights[1]


def test_a_chat_template_goes_with_the_merged_model(merge: Merge) -> None:
    assert AutoTokenizer.from_pretrained(merge(chat_template=TEMPLATE)).chat_template == TEMPLATE


def test_chatml_is_known_by_its_name(merge: Merge) -> None:
    tokenizer = AutoTokenizer.from_pretrained(merge(chat_template="chatml"))
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert said == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_the_tokenizer_of_a_model_brings_its_template_along(merge: Merge) -> None:
    assert AutoTokenizer.from_pretrained(merge(tokenizer_source="{folder}/chatty")).chat_template == f"{TEMPLATE} "


@pytest.mark.parametrize("inline", [False, True], ids=["file", "in the settings"])
def test_auto_takes_the_template_that_most_models_have(inline: bool, tmp_path: Path) -> None:
    folders = save_family("llama", tmp_path, experts=3)
    for name, template in {"base": "{{ 'of the base' }}", "e0": None, "e1": TEMPLATE, "e2": f"{TEMPLATE}\n"}.items():
        save_tokenizer(WORDS, tmp_path / name, template, inline)
    models = [{"model": ref.path, "parameters": {"weight": 0.5}} for ref in folders.experts]
    document = {"merge_method": "task_arithmetic", "base_model": folders.base.path, "models": models}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**document, "chat_template": "auto"}))
    merge_recipe(tmp_path / "r.yaml", tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == TEMPLATE
