"""The family of experiments/selecting: items with one right choice, and useless adapters that are what they say."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import ROOT

FOLDER = ROOT / "experiments" / "selecting"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The scripts as they import one another: from their own folder."""
    names = ("skills", "make_family", "compare")
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield {name: __import__(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


def test_every_item_has_one_right_choice_and_the_lazy_one(scripts: dict[str, ModuleType]) -> None:
    skills = scripts["skills"]
    for name in skills.TASKS:
        skill = skills.SKILLS[name]
        held_out, rest = skills.split(skill, 60, 1)
        assert not set(held_out) & set(rest) and len(held_out) == 60
        for text, item in zip(held_out, skills.items(skill, held_out, 1), strict=True):
            assert len(set(item["choices"])) == 4
            assert item["choices"][item["gold"]] == skill.answer(text) and skill.lazy(text) in item["choices"]
        assert skills.items(skill, held_out, 1) == skills.items(skill, held_out, 1)


def test_useless_adapters_are_copies_random_ones_and_scaled_ones(
    scripts: dict[str, ModuleType], tmp_path: Path
) -> None:
    make = scripts["make_family"]
    (tmp_path / "one").mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"m.lora_{side}.weight": torch.randn(shape, generator=generator)
        for side, shape in (("A", (8, 30)), ("B", (20, 8)))
    }
    save_file(tensors, tmp_path / "one" / "adapter_model.safetensors")

    def delta(change: object, name: str) -> torch.Tensor:
        make.changed(tmp_path / "one", tmp_path / name, change)
        found = load_file(tmp_path / name / "adapter_model.safetensors")
        return (found["m.lora_B.weight"] @ found["m.lora_A.weight"]).flatten()

    original = (tensors["m.lora_B.weight"] @ tensors["m.lora_A.weight"]).flatten()
    torch.testing.assert_close(delta(make.scaled(-8.0), "large"), -8 * original)
    cosine = torch.nn.functional.cosine_similarity
    assert 0.95 < cosine(original, delta(make.noisy(0.1, 1), "noisy"), dim=0) < 0.999
    random = delta(make.random_like(1), "random")
    assert abs(cosine(original, random, dim=0)) < 0.2 and 0.5 < random.norm() / original.norm() < 2


def test_the_best_alone_are_chosen_by_their_scores(scripts: dict[str, ModuleType]) -> None:
    rows = [{"label": label, "score": score} for label, score in (("a", 0.2), ("b", 0.9), ("c", 0.2), ("d", 0.5))]
    assert scripts["compare"].best_alone({"rows": [*rows, {"label": "failed"}]}, 3) == ["b", "d", "a"]
