"""`check --deep`: the audit after the description, its exit code, and the same from Python."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import evomerge as package
from tests.conftest import SMALL, Command, evomerge

NAME = "model.layers.1.mlp.up_proj.weight"


def edit(file: Path, factor: float) -> None:
    tensors = load_file(file)
    tensors[NAME] = tensors[NAME] * factor
    save_file(tensors, file, {"format": "pt"})


def test_a_healthy_family_has_no_finding_and_exit_code_0(command: Command) -> None:
    said = command("check", "--deep", "+experiment=quickstart", *SMALL)
    assert said.code == 0 and "no findings in 38 tensors" in said.out and "cosines" in said.out
    assert said.out.startswith("base ") and not said.err


def test_a_warning_keeps_exit_code_0(project: Path) -> None:
    edit(project / "family/max/model.safetensors", 10)
    said = evomerge("check", "+experiment=mine", *SMALL, "--deep", cwd=project)
    assert said.code == 0 and f"{NAME} × 10" in said.out and "→ compare it with" in said.out


def test_an_error_is_exit_code_1_and_one_line_after_the_table(project: Path) -> None:
    edit(project / "family/max/model.safetensors", float("nan"))
    said = evomerge("check", "--deep", "+experiment=mine", *SMALL, cwd=project)
    assert "not finite (max)" in said.refused(1) and "→ download or save the model again" in said.out


def test_without_the_option_no_weight_is_audited(project: Path) -> None:
    edit(project / "family/max/model.safetensors", float("nan"))
    said = evomerge("check", "+experiment=mine", *SMALL, cwd=project)
    assert said.code == 0 and "audit" not in said.out


def test_from_python_the_lines_follow_the_description(command: Command, tmp_path: Path) -> None:
    family = Path(__file__).parents[2] / "experiments/quickstart/family"
    config = {"base": str(family / "base"), "experts": {"max": str(family / "max")}, "scorer": {"tasks": ["copa"]}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evomerge.experiment.describe", lambda *_: iter(["described"]))
        lines = package.check(config, tmp_path / "run", deep=True)
    assert lines[0] == "described" and any(line.startswith("audit     no findings") for line in lines)


def test_adapters_of_one_other_base_are_one_warning(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    from evomerge.experiment import from_config, prepare_run
    from tests.families import save_adapter, save_family

    made = save_family("llama", tmp_path, experts=1)
    paths = {}
    for number in (1, 2):
        save_adapter("llama", made.base, tmp_path / f"a{number}", rank=2, seed=number)
        file = tmp_path / f"a{number}" / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "someone/other-7B"}))
        paths[f"a{number}"] = str(file.parent)
    config = {"base": made.base.path, "experts": paths, "scorer": {"tasks": ["copa"]}}
    plain, _ = prepare_run(config, tmp_path / "run")
    assert from_config(plain).family
    (line,) = [record.getMessage() for record in caplog.records if "someone/other-7B" in record.getMessage()]
    assert "experts a1, a2: trained on someone/other-7B" in line
