"""Configurations with something wrong in them: a sound one, and what careless people and programs make of it."""

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import yaml

from evomerge.schema import as_yaml
from tests.conftest import QUICKSTART

Place = tuple[Any, ...]  # keys and list places, from the outside in

WORDS = (
    "", " ", "nonsense", "null", "1", "nan", "all", "auto", "é†Ω", "\ud800", "a\nb", "a\0b", "x" * 5000, "a b", "-",
    "../x", "/", "/etc/passwd", "/dev/null", "/no/such/file", ".", "owner/name", "{{", "{% for %}", "{{ 1 // 0 }}",
    "${oc.env:HOME}", "cuda:99", "mps", "blocks:99999999999999999999", "blocks:²", "best_expert - nan", "base + 1e999",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 0.5, -0.5, math.nan, math.inf, -math.inf, 1e9, 1e308, -1e308, 1e-300,
    10**9, 2**31, 2**32, 2**63, 2**70, -(2**63), 10**5000,
)  # fmt: skip
TREES = ({}, [], [1], ["a"], [[["a"]]], [None], [{}], {"a": 1}, {1: 2}, {None: 1}, {True: {}}, {"": ""}, ["ties"] * 2)
VALUES: tuple[Any, ...] = (None, True, False, b"bytes", *WORDS, *NUMBERS, *TREES)
KEYS: tuple[Any, ...] = (1, None, True, 2.5, "", "nonsense", "é", "x" * 500, "a.b", "a\nb", "name", b"k")


SOUND = """
name: mine
base: {family}/base
experts: {shift: {family}/shift, last: {family}/last}
method: [{name: ties, settings: {normalize: false}, options: {}}, {name: task_arithmetic, settings: {}}]
model:
  {dtype: float32, device: cpu, attn_implementation: null, trust_remote_code: false, batch_size: 16, batch_tokens: 4096,
   scoring: auto, max_length: null, compile: never, placement: auto}
budget: {evaluations: 4, items: 1000, hours: 0.5}
race: {enabled: true, least: 4, margin: 1, most: 8, widen: true, items: rotating, alpha: null}
objective: {maximise: [copy], normalise: false, front: false, keep: {copy: base - 0.5}}
init: []
baselines:
  random_direction: false
  methods: {low: {name: task_arithmetic, genes: {weight: 0.3}}, plain: linear}
  recipes: {}
finalise: {top: 1, simplify: 0, cloud: 0, radius: 0.05}
space:
  schedule: blocks:2
  components: [attention]
  outer: joint
  subset: false
  genes: {density: {low: 0.2, high: 0.9, default: 0.5, schedule: all}}
optimizer:
  {name: cma, population: null, multiple_of: 1, screen: 4, sigma: 0.2, covariance: auto, restarts: none,
   tolerance: 0.002, mirror: null}
scorer:
  name: lm_eval
  tasks:
    - name: copy
      weight: 1.0
      metric: acc
      search: 8
      spec:
        dataset_path: json
        dataset_kwargs: {data_files: {test: {folder}/items.jsonl}, cache_dir: {folder}/data}
        test_split: test
        output_type: multiple_choice
        doc_to_text: "{{query}}"
        doc_to_choice: choices
        doc_to_target: gold
        metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
  slices: {search: 6, select: 6, holdout: 6}
  chunk_items: 4
  include_path: null
  num_fewshot: null
  apply_chat_template: false
  fewshot_as_multiturn: null
  system_instruction: null
  gen_kwargs: null
pool: {name: local, threads: null}
tracker: {name: none}
seed: 1
"""


def sound(folder: Path) -> dict[str, Any]:
    """A configuration in which every key is spelt out, of one small task on the quickstart's models."""
    lines = (QUICKSTART / "data" / "copy.jsonl").read_text().splitlines(keepends=True)
    (folder / "items.jsonl").write_text("".join(lines[:40]))
    text = SOUND.replace("{family}", str(QUICKSTART / "family")).replace("{folder}", str(folder))
    config: dict[str, Any] = yaml.safe_load(text)
    return config


def places(tree: Any, at: Place = ()) -> Iterator[Place]:
    """Every place of a tree below its root."""
    entries = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield (*at, key)
        yield from places(value, (*at, key))


def mutated(config: Mapping[str, Any], random: Random) -> tuple[dict[str, Any], Place, str]:
    """The configuration with one change: where it was made, and what it is."""
    tree: Any = copy.deepcopy(dict(config))
    place = random.choice(list(places(tree)))
    parent = tree
    for key in place[:-1]:
        parent = parent[key]
    if (kind := random.random()) < 0.8:
        parent[place[-1]] = value = copy.deepcopy(random.choice(VALUES))
        return tree, place, f"{place} = {_short(value)}"
    if isinstance(parent, dict) and kind < 0.9:
        key = random.choice(KEYS)
        parent[key] = parent[place[-1]] if kind < 0.85 else parent.pop(place[-1])
        return tree, (*place[:-1], key), f"{place} as {_short(key)}"
    del parent[place[-1]]
    return tree, place, f"no {place}"


def _short(value: Any) -> str:
    return as_yaml(value).encode("unicode_escape").decode()
