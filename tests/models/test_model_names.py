"""Which names mean the same model."""

from pathlib import Path

import pytest

from evomerge.models.model_names import is_same_model

SAME = [
    ("HuggingFaceTB/SmolLM2-135M-Instruct", "models/smollm2-135m-instruct-fp32"),
    ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "meta-llama/Llama-3.1-8B-Instruct"),
    ("models/gemma-3-270m", "google/gemma-3-270m"),
    ("someone/Model_7B", "someone/model-7b"),
    ("./model", "someone/other-135m"),
    ("someone/large-135M", "base"),
    ("HuggingFaceTB/SmolLM2-135M-Instruct", "models/SmolLM2-135M-Instruct.Q4_1.gguf"),
    ("HuggingFaceTB/SmolLM2-135M-Instruct", "someone/SmolLM2-135M-Instruct-GGUF/smollm2-135m-instruct-iq4_xs.gguf"),
    ("HuggingFaceTB/SmolLM2-135M-Instruct", "someone/SmolLM2-135M-Instruct-AWQ"),
]
OTHER = [
    ("HuggingFaceTB/SmolLM2-135M", "models/SmolLM2-135M-Instruct.Q4_1.gguf"),
    ("HuggingFaceTB/SmolLM2-135M", "models/smollm2-135m-instruct"),
    ("HuggingFaceTB/SmolLM2-360M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ("meta-llama/Llama-3.2-1B", "models/smollm2-135m-instruct-fp32"),
    ("someone/large-7B", "base"),
    ("someone/large", "base"),
]


@pytest.mark.parametrize(
    ("named", "base", "same"), [*((*pair, True) for pair in SAME), *((*pair, False) for pair in OTHER)]
)
def test_names(named: str, base: str, same: bool) -> None:
    parameters = 8_000_000_000 if "8b" in base.lower() else 134_515_008
    assert is_same_model(named, base, parameters) is same


def test_a_folder_with_a_shorter_name_is_the_model_of_its_size(tmp_path: Path) -> None:
    folder = tmp_path / "smollm2"
    folder.mkdir()
    assert is_same_model("HuggingFaceTB/SmolLM2-135M-Instruct", str(folder), 134_515_008)
    assert not is_same_model("HuggingFaceTB/SmolLM2-1.7B-Instruct", str(folder), 134_515_008)
    instruct = folder.rename(tmp_path / "smollm2-instruct")
    assert not is_same_model("HuggingFaceTB/SmolLM2-135M", str(instruct), 134_515_008)
