"""A merged model as a GGUF file, with stand-ins for llama.cpp's programs."""

import json
import shutil
import sys
from pathlib import Path

import pytest

import evomerge
from evomerge.errors import ConfigError, RunError
from evomerge.export.llama_cpp import CHECKOUT_VARIABLE, CONVERTERS, find_tools
from tests.conftest import Command
from tests.families import save_family

RECIPE = """
merge_method: linear
models:
  - {{model: {0}/one, parameters: {{weight: 0.5}}}}
  - {{model: {0}/two, parameters: {{weight: 0.5}}}}
dtype: float32
"""
CONVERTER = """
import pathlib, sys
folder, _, out, _, kind = sys.argv[1:]
assert (pathlib.Path(folder) / "model.safetensors").is_file()
pathlib.Path(out).write_text(f"{pathlib.Path(folder).name} as {kind}")
"""
BROKEN = "import sys; sys.exit('it is\\n\\nno known model')"
QUANTISER = """#!{0}
import pathlib, sys
source, out, kind = sys.argv[1:]
pathlib.Path(out).write_text(pathlib.Path(source).read_text() + f", then {{kind}}")
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    save_family("llama", tmp_path, experts=2)
    (tmp_path / "e0").rename(tmp_path / "one")
    (tmp_path / "e1").rename(tmp_path / "two")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(tmp_path))
    return path


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of llama.cpp that is built, and nothing of it on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(CHECKOUT_VARIABLE, raising=False)
    folder = tmp_path / "llama.cpp"
    (folder / "build" / "bin").mkdir(parents=True)
    (folder / CONVERTERS[0]).write_text(CONVERTER)
    program = folder / "build" / "bin" / "llama-quantize"
    program.write_text(QUANTISER.format(sys.executable))
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("gguf", "out as f16"),
        ("gguf:q8_0", "out as q8_0"),
        ("gguf:bf16", "out as bf16"),
        ("gguf:Q4_K_M", "out as f32, then Q4_K_M"),
    ],
)
def test_the_file_is_made_by_the_programs_of_a_checkout(recipe: Path, checkout: Path, text: str, right: str) -> None:
    fingerprint = evomerge.merge(recipe, recipe.parent / "made" / "out.gguf", format=text, llama_cpp=checkout)
    assert (recipe.parent / "made" / "out.gguf").read_text() == right
    assert [file.name for file in (recipe.parent / "made").iterdir()] == ["out.gguf"]
    assert fingerprint == evomerge.merge(recipe, recipe.parent / "folder")


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "f32"), ("float16", "f16"), ("bfloat16", "bf16")])
def test_the_quantiser_gets_the_weights_unrounded(checkout: Path, tmp_path: Path, dtype: str, kind: str) -> None:
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "config.json").write_text(json.dumps({"dtype": dtype}))
    (tmp_path / "merged" / "model.safetensors").touch()
    find_tools("Q6_K", checkout).convert(tmp_path / "merged", tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_text() == f"merged as {kind}, then Q6_K"


def test_the_programs_are_found_by_the_variable_and_on_the_path(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"llama\.cpp's converter is not there: put convert_hf_to_gguf\.py or"):
        find_tools("F16")
    shutil.copy(checkout / CONVERTERS[0], tmp_path / CONVERTERS[0])
    (tmp_path / CONVERTERS[0]).chmod(0o755)
    assert find_tools("F16").converter == (sys.executable, str(tmp_path / CONVERTERS[0]))
    with pytest.raises(ConfigError, match=r"gguf:q5_k_s: llama-quantize is not there: .*without it there are F32, F16"):
        find_tools("q5_k_s")
    monkeypatch.setenv(CHECKOUT_VARIABLE, str(checkout))
    found = find_tools("Q5_K_S")
    assert found.converter[1].startswith(str(checkout)) and str(found.quantiser).startswith(str(checkout))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("gguf:Q8_1", "no such type (did you mean 'Q8_0'?)"),
        ("onnx", "format onnx: give gguf, or gguf:TYPE"),
        ("gguf:", "format gguf:: give gguf"),
    ],
)
def test_a_slip_is_named_before_the_merge(command: Command, recipe: Path, checkout: Path, text: str, line: str) -> None:
    arguments = ("--format", text, "--llama-cpp", str(checkout))
    assert line in command("merge", str(recipe), str(recipe.parent / "out.gguf"), *arguments).refused(2)


def test_other_slips(command: Command, recipe: Path, checkout: Path) -> None:
    arguments = ("--format", "gguf", "--llama-cpp", str(checkout))
    assert "a GGUF file's name ends with .gguf" in command("merge", str(recipe), "out", *arguments).refused(2)
    (recipe.parent / "there.gguf").write_text("")
    there = str(recipe.parent / "there.gguf")
    assert "already exists; give a new file" in command("merge", str(recipe), there, *arguments).refused(2)
    assert "an adapter has no such format" in command("merge", str(recipe), "o.gguf", *arguments, "--adapter").refused(
        2
    )
    elsewhere = ("--format", "gguf", "--llama-cpp", str(recipe.parent))
    assert "give the folder of a checkout" in command("merge", str(recipe), "o.gguf", *elsewhere).refused(2)


def test_a_program_that_fails_leaves_nothing(recipe: Path, checkout: Path) -> None:
    (checkout / CONVERTERS[0]).write_text(BROKEN)
    with pytest.raises(RunError, match=r"convert_hf_to_gguf\.py: no known model; merge without a format first"):
        evomerge.merge(recipe, recipe.parent / "made" / "out.gguf", format="gguf", llama_cpp=checkout)
    assert not list((recipe.parent / "made").iterdir())


def test_a_file_of_a_runs_recipe_says_how_to_score_it(recipe: Path, checkout: Path, command: Command) -> None:
    def merged(name: str) -> str:
        return command("merge", str(recipe), name, "--format", "gguf", "--llama-cpp", str(checkout)).out

    assert "evomerge score" not in merged("a.gguf")
    (recipe.parent / "result.json").write_text("{}")
    assert f"evomerge score b.gguf run={recipe.parent}" in merged("b.gguf").replace("\n", "")
