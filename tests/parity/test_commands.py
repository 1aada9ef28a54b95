"""The two command lines themselves, and that transformers loads what ours writes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from evomerge.errors import EvomergeError
from tests.parity.compare import assert_equal
from tests.parity.families import Family
from tests.parity.oracle import FLAGS, Oracle, OracleError, evomerge_command, run_command
from tests.parity.recipes import Recipe, entry, recipe, weighted

pytestmark = pytest.mark.parity

Families = Callable[[str], Family]


def test_both_commands_end_to_end(mergekit: Path, family: Families, oracle: Oracle, tmp_path: Path) -> None:
    """Also shows that the warm process the other tests ask answers as the mergekit-yaml command does."""
    merge = weighted("ties", family("llama"), 0.5, 0.3, density=0.4)
    file, theirs, mine = tmp_path / "recipe.yaml", tmp_path / "theirs", tmp_path / "ours"
    file.write_text(yaml.safe_dump(merge), encoding="utf-8")
    command = run_command([str(mergekit), str(file), str(theirs), *FLAGS])
    assert command.returncode == 0, command.stderr
    assert_equal(oracle.merge(merge), theirs, relative=0)
    command = run_command(evomerge_command(file, mine))
    assert command.returncode == 0, command.stderr
    assert_equal(mine, theirs)


@pytest.mark.parametrize("architecture", ["llama", "llama-tied", "gpt2", "t5"])
def test_transformers_loads_what_is_written(
    architecture: str, family: Families, ours: Callable[[Recipe], Path]
) -> None:
    loader = AutoModelForSeq2SeqLM if architecture == "t5" else AutoModelForCausalLM
    folder = ours(weighted("ties", family(architecture), 0.5, 0.3, density=0.4))
    model, found = loader.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"]
    ids = torch.tensor([[1, 2, 3]])
    extra = {"decoder_input_ids": ids} if architecture == "t5" else {}
    assert torch.isfinite(model(ids, **extra).logits).all()


REFUSED: dict[str, Callable[[Family], Recipe]] = {
    "no weight": lambda f: recipe("task_arithmetic", f.base, [entry(f.experts[0])]),
    "no t": lambda f: recipe("slerp", f.base, [entry(f.far)]),
    "t under a model only": lambda f: recipe("slerp", f.base, [entry(f.far, t=0.5)]),
    "no base": lambda f: recipe("ties", None, [entry(f.experts[0], weight=1.0)]),
    "three models in slerp": lambda f: recipe("slerp", f.base, [entry(e) for e in f.experts], t=0.5),
    "one model twice": lambda f: recipe("linear", None, [entry(f.base, weight=1), entry(f.base, weight=1)]),
    "no weight where no filter matches": lambda f: recipe(
        "linear", None, [entry(f.base, weight=[{"filter": "mlp", "value": 1}]), entry(f.far, weight=1)]
    ),
    "an unknown method": lambda f: recipe("lineer", f.base, [entry(f.far, weight=1)]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_mergekit_refuses_we_refuse(
    case: str, family: Families, oracle: Oracle, ours: Callable[[Recipe], Path]
) -> None:
    merge = REFUSED[case](family("llama"))
    with pytest.raises(OracleError):
        oracle.merge(merge)
    with pytest.raises(EvomergeError) as caught:
        ours(merge)
    assert "\n" not in str(caught.value)
