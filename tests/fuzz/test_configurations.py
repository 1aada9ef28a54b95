"""Configurations: read key by key, or refused in a line that names the key; files say the numbers of their text."""

import copy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given

from evomerge.experiment import prepare_run, read_config
from evomerge.experiment.resume import refuse_changed
from evomerge.parsing import parse_yaml
from tests.fuzz.budget import inputs
from tests.fuzz.outcomes import REFUSED, files_of, outcome
from tests.fuzz.readings import says, texts_of
from tests.fuzz.values import NUMERALS, changed, torn
from tests.mutations import SOUND
from tests.test_rooms import HEAVY

MORE = """
tokenizer: {source: union, missing: pieces}
screen: {most: null}
rules: {name: none}
submission: {pack: false}
"""
TEXT = SOUND.replace("{family}", "family").replace("{folder}", "data") + MORE
FILE = """
base: owner/base
experts: {math: owner/math, law: owner/law}
method: ties
defaults: [override /optimizer: sobol]
space: {schedule: blocks:2, genes: {density: {low: 0.2, high: 0.9, default: 0.5}}}
scorer: {tasks: [gsm8k, {name: arc_easy, weight: 2.5, search: 8}], slices: {search: 64, select: 32, holdout: 128}}
budget: {evaluations: 100, hours: 0.5}
model: {batch_size: 16, dtype: bfloat16}
finalise: {radius: 0.05}
objective: {keep: {gsm8k: base - 0.5}}
seed: 7
"""


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty working directory, which no input may write to."""
    with chdir(tmp_path_factory.mktemp("configurations")):
        yield


@given(changed(parse_yaml(TEXT)))
@inputs(500)
def test_a_configuration_is_read_key_by_key(config: Mapping[str, Any]) -> None:
    given = copy.deepcopy(config)
    outcome("configuration", lambda: refuse_changed(config, Path("run")) or read_config(config))
    assert repr(config) == repr(given), "the configuration was changed"
    assert not files_of(Path())


@given(torn([FILE, TEXT]) | NUMERALS.map(lambda text: FILE.replace("0.5", text, 1)))
@inputs(150)
def test_a_file_says_the_numbers_of_its_text(text: str) -> None:
    path = Path("experiment.yaml")
    path.write_bytes(text.encode(errors="surrogatepass"))
    prepared = outcome("experiment file", lambda: prepare_run(path, "runs/x"))
    assert files_of(Path()).keys() == {"experiment.yaml"}
    if prepared is REFUSED or "<<" in text:
        return
    config, _ = prepared
    for key, texts in texts_of(path.read_text(encoding="utf-8")).items():
        if key != "defaults":
            assert_within(texts, config[key], key)


def assert_within(texts: Any, value: Any, key: str) -> None:
    """A section over its defaults says what its text says, key by key."""
    if isinstance(texts, Mapping) and isinstance(value, Mapping):
        for name, inner in texts.items():
            found = value[name] if name in value else parse_yaml(name)
            assert_within(inner, found, f"{key}.{name}")
    else:
        assert says(texts, value), (key, texts, value)


def test_reading_a_wrong_configuration_imports_no_large_library(tmp_path: Path) -> None:
    """In a process of its own: each key of a configuration, replaced by a wrong value."""
    config = parse_yaml(FILE)
    del config["defaults"], config["space"]["genes"]  # the genes of a method are in its module, which needs torch
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    code = f"""
import sys
from evomerge.errors import EvomergeError
from evomerge.experiment import prepare_run, read_config
config, _ = prepare_run({str(tmp_path / "config.yaml")!r}, "x")
for key in config:
    for value in (None, [], {{}}, {{"nonsense": 1}}, "nonsense", -1, True):
        try:
            read_config({{**config, key: value}})
        except EvomergeError:
            pass
print({HEAVY!r} & set(sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
