"""Findings about config.json: settings of the forward pass that differ between a full checkpoint and the base."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from evomerge.audit.finding import Finding, some
from evomerge.audit.survey import Survey
from evomerge.models import FullExpert, full_config

# Keys that do not change what a forward pass computes from the same weights, and those that other checks compare.
IGNORED = (
    *(
        "_name_or_path",
        "_model_name_or_path",
        "name_or_path",
        "architectures",
        "dtype",
        "torch_dtype",
        "transformers_version",
    ),
    *(
        "use_cache",
        "initializer_range",
        "initializer_factor",
        "pretraining_tp",
        "max_position_embeddings",
        "n_positions",
    ),
    *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "decoder_start_token_id"),
    *(
        "tie_word_embeddings",
        "vocab_size",
        "id2label",
        "label2id",
        "problem_type",
        "task_specific_params",
        "return_dict",
    ),
    *("output_attentions", "output_hidden_states", "gradient_checkpointing", "chunk_size_feed_forward", "auto_map"),
    *(
        "transformers_weights",
        "is_decoder",
        "add_cross_attention",
        "finetuning_task",
        "prefix",
        "unsloth_version",
        "unsloth_fixed",
    ),
)
DROPOUT = ("drop", "layerdrop")  # off in a merged model
TIED = "tie_word_embeddings"
MISSING = "not set"


def configurations(survey: Survey) -> Iterator[Finding]:
    """One finding for each set of differences, with all full checkpoints that have it."""
    base = survey.family.base
    expected = full_config(base.folder, base.trust_remote_code)
    found: dict[str, list[str]] = {}
    for label, expert in zip(survey.labels, survey.experts, strict=True):
        if not isinstance(expert, FullExpert):
            continue
        own = full_config(expert.checkpoint.folder, base.trust_remote_code)
        raw = expert.checkpoint.config
        if changes := [
            *_changes(own, expected),
            *_contradicted_tie(own, expected, expert),
            *_stale_theta(raw, expected),
        ]:
            found.setdefault(some(changes, 4), []).append(label)
    remedy = "the merged model computes with the base's settings; merge only experts that were trained with them"
    for evidence, labels in found.items():
        yield Finding("config clash", tuple(labels), "warning", evidence, remedy)


def _changes(own: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    one, other = dict(_flat(own)), dict(_flat(expected))
    keys = [key for key in {**other, **one} if not _is_ignored(key)]
    return [
        f"{key} {_text(one.get(key, MISSING))} (base {_text(other.get(key, MISSING))})"
        for key in keys
        if _differ(one.get(key), other.get(key))
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values by dotted key; sections are opened, lists are values."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_ignored(key: str) -> bool:
    parts = key.split(".")
    is_other_part = parts[0] in (
        "text_config",
        "vision_config",
        "audio_config",
    )  # the first is merged into the top level
    return is_other_part or any(part in IGNORED or any(word in part for word in DROPOUT) for part in parts)


def _differ(one: Any, other: Any) -> bool:
    """Whether two values differ; a key that is missing counts as null, and 1e-5 is 9.9999997e-06."""
    if isinstance(one, int | float) and isinstance(other, int | float) and not isinstance(one, bool):
        return abs(one - other) > 1e-6 * max(abs(one), abs(other))
    return bool(one != other)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _stale_theta(raw: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """`rope_theta` at the top level beside `rope_parameters`: transformers 5 ignores it, older readers do not."""
    theta, parameters = raw.get("rope_theta"), raw.get("rope_parameters")
    if theta is None or not isinstance(parameters, Mapping):
        return []
    known = [value for key, value in _flat(expected) if key.rpartition(".")[2] == "rope_theta"]
    return [f"rope_theta {theta} (base {known[0]})"] if known and all(_differ(theta, value) for value in known) else []


def _contradicted_tie(own: Mapping[str, Any], expected: Mapping[str, Any], expert: FullExpert) -> list[str]:
    """The flag of tied embeddings, if it differs from the base's and the expert's files say otherwise.

    An expert with a head of its own is no clash, and neither is one that has tied its head.
    """
    if own.get(TIED) == expected.get(TIED):
        return []
    skeleton = expert.stored.skeleton
    heads = [path for path in (*skeleton.parameters, *skeleton.aliases) if "lm_head" in path or "embed_out" in path]
    has_head = any(expert.stored.has_whole(path) for path in heads)
    separate = bool(expert.stored.untied(skeleton.aliases))
    if own.get(TIED):
        return [f"{TIED} true (base false), but the files hold a separate head"] if separate else []
    return [] if has_head else [f"{TIED} false (base true), but the files hold no head"]
