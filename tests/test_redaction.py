"""Passwords and tokens never leave the run's folder; everything else of a configuration does, unchanged."""

from typing import Any

import pytest

from evomerge.redaction import without_secrets


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://me:pa55@mlflow.example:5000/x", "https://***@mlflow.example:5000/x"),
        ("postgresql+psycopg2://user@host/db", "postgresql+psycopg2://***@host/db"),
        ("owner/name@4f2a91c", "owner/name@4f2a91c"),
        ("https://host/owner/name@rev", "https://host/owner/name@rev"),
        ("Bearer hf_abcdefghijklmnopqrstuvwxyz", "Bearer ***"),
        ("hf_math", "hf_math"),
    ],
)
def test_texts(given: str, shown: str) -> None:
    assert without_secrets({"a": [given, 1]}) == {"a": [shown, 1]}


def test_keys() -> None:
    config: dict[str, Any] = {"token": "abc", "api_key": "abc", "WANDB_API_KEY": "abc", "db": {"password": "abc"}}
    assert "abc" not in str(without_secrets(config))
    plain = {
        "tokenizer": "base",
        "batch_tokens": 4096,
        "tokens": {"a": "b"},
        "token": 3,
        "pad_token": "<pad>",
        "seed": 1,
    }
    assert without_secrets(plain) == plain
