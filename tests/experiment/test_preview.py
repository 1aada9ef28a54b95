"""`check`: what the search would do, and every problem that shows without reading a weight."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests.conftest import SMALL, evomerge
from tests.quantised_files import quantise

Checked = Callable[..., str]


@pytest.fixture(autouse=True)
def no_weight_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a tensor, hashing a file or starting a worker ends the test.

    What a file holds twice, as this family's head and embedding, is compared to tell whether it is one tensor.
    """
    from evomerge.models import adapter as lora
    from evomerge.models.checkpoint import Checkpoint
    from evomerge.workers import pools

    def read(*_: object) -> Any:
        raise AssertionError("check must not read weights")

    monkeypatch.setattr(Checkpoint, "tensor", read)
    monkeypatch.setattr(Checkpoint, "sha256", property(read))
    monkeypatch.setattr(lora.Adapter, "update", read)
    monkeypatch.setattr(pools, "create", read)


@pytest.fixture
def refused(project: Path) -> Checked:
    """The line with which `check` refuses the user's experiment."""

    def refused(*overrides: str, code: int = 1) -> str:
        return evomerge("check", "+experiment=mine", *SMALL, *overrides, cwd=project).refused(code)

    return refused


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def save_other(folder: Path, like: Path, **sizes: Any) -> None:
    """A random Llama of other sizes in the place of an expert."""
    config = LlamaConfig.from_pretrained(like)
    for key, value in sizes.items():
        setattr(config, key, value)
    shutil.rmtree(folder)
    LlamaForCausalLM(config).save_pretrained(folder)


def test_a_sound_experiment_is_described(project: Path) -> None:
    said = evomerge("check", "+experiment=mine", *SMALL, cwd=project)
    assert said.code == 0 and said.err == ""
    for text in (
        "base      family/base: 0.3M parameters",
        "expert    last: family/last",
        "placement mmap: 2.7 MB of base and experts in the page cache, which all workers share",
        "space     task_arithmetic, 6 dimensions: weight",
        "baselines base, shift, last, max, uniform, default",
        "budget    32 evaluations",
        "slice     holdout: 64 items in 4 chunks",
        "runs/mine: new",
        "scored by acc of multiple_choice\n          prompt    │max ",
        "← right",
    ):
        assert text in said.out, text
    assert said.out.count("\nitem      ") == 4, "one item of each task"
    assert not list(project.rglob("trials.jsonl")), "check begins nothing"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("mode", ["device", "pinned", "mmap"])
def test_a_chosen_placement_is_said(project: Path, mode: str) -> None:
    said = evomerge("check", "+experiment=mine", *SMALL, f"model.placement={mode}", cwd=project)
    assert said.code == 0 and f"placement {mode}: 2.7 MB" in said.out


def test_workers_elsewhere_plan_with_their_own_memory(project: Path) -> None:
    said = evomerge("check", "+experiment=mine", *SMALL, "pool=ray", "pool.workers=1", cwd=project)
    assert said.code == 0 and "placement 2.7 MB of base and experts; each worker plans" in said.out


@pytest.mark.parametrize(
    ("sources", "mode", "text"),
    [
        (10e9, "device", "device: 10.00 GB of base and experts all on cuda"),
        (50e9, "pinned", "in pinned host memory, prefetched, at most {staged:.2f} GB of them on cuda at once"),
        (900e9, "mmap", "in the page cache, at most {staged:.2f} GB of them on cuda at once"),
    ],
)
def test_the_plan_for_a_gpu_is_said(
    project: Path, monkeypatch: pytest.MonkeyPatch, sources: float, mode: str, text: str
) -> None:
    """Sizes and memory are given: a machine without a GPU plans for one."""
    from evomerge.experiment import preview as check
    from evomerge.merging import placement
    from evomerge.merging.placement import AvailableMemory, MemoryNeed

    given = MemoryNeed(int(8e9), int(sources), int(1e9))
    monkeypatch.setattr(check, "resolve_device", lambda device: "cuda")
    for module in (check, placement):
        monkeypatch.setattr(module, "memory_need", lambda family, dtype: given)
    monkeypatch.setattr(placement, "available_memory", lambda device, model: AvailableMemory(int(48e9), int(256e9)))
    said = evomerge("check", "+experiment=mine", *SMALL, cwd=project)
    assert said.code == 0, said
    assert f"placement {mode}: " in said.out and text.format(staged=placement.PREFETCH_DEPTH * 1.0) in said.out


@pytest.mark.parametrize(
    ("total", "sources", "lines"),
    [
        (24, 64.24, ["budget.gpu_gb: 40.9 GB are needed and 24 GB are allowed; merge fewer experts, or adapters"]),
        (
            48,
            64.24,
            [
                "memory    40.94 GB of 48.00 GB of the GPU, activations included",
                "          GPU: 16.06 GB of live model, 12.60 GB of prefetched tensors; 19.34 GB left for activations",
                "          pinned host memory: 64.24 GB of base and experts\n",
            ],
        ),
        (
            80,
            16.56,
            [
                "memory    46.60 GB of 80.00 GB of the GPU, activations included",
                "          GPU: 16.06 GB of live model, 16.56 GB of base and experts; 47.38 GB left for activations",
            ],
        ),
    ],
)
def test_the_plan_for_a_gpu_that_is_not_here(
    project: Path, monkeypatch: pytest.MonkeyPatch, total: int, sources: float, lines: list[str]
) -> None:
    """`budget.gpu_gb` is the GPU to plan for: base of 8B with three experts, or with three adapters."""
    from evomerge.experiment import preview as check
    from evomerge.merging import placement
    from evomerge.merging.placement import MemoryNeed

    given = MemoryNeed(int(16.06e9), int(sources * 1e9), int(4.2e9 if sources > 60 else 1.05e9))
    for module in (check, placement):
        monkeypatch.setattr(module, "memory_need", lambda family, dtype: given)
    monkeypatch.setattr(placement, "free_host_memory", lambda: int(128e9))
    said = evomerge("check", "+experiment=mine", *SMALL, f"budget.gpu_gb={total}", "model.dtype=bfloat16", cwd=project)
    assert all(line in (said.err if total == 24 else said.out) for line in lines), said
    assert (said.code == 0) == (total != 24) and said.err.count("\n") == (total == 24)


def test_a_run_that_has_begun_is_said_to_be_resumed(mine: Path) -> None:
    said = evomerge("check", "+experiment=mine", *SMALL, cwd=mine)
    assert said.code == 0 and "will be resumed" in said.out


def test_a_file_in_place_of_the_run_folder(project: Path, refused: Checked) -> None:
    (project / "runs").write_text("")
    assert "runs" in refused()


@pytest.mark.parametrize("which", ["base", "last"])
def test_truncated_weights(project: Path, refused: Checked, which: str) -> None:
    path = project / "family" / which / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert f"family/{which}/model.safetensors: truncated" in refused()


@pytest.mark.parametrize("which", ["base", "last"])
def test_an_lfs_pointer(project: Path, refused: Checked, which: str) -> None:
    path = project / "family" / which / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 678000\n")
    line = refused()
    assert f"family/{which}/model.safetensors" in line and "git lfs pull" in line


def test_a_missing_base_folder(refused: Checked) -> None:
    assert "no/where/base: no such folder" in refused("base=no/where/base")


def test_a_folder_without_weights(project: Path, refused: Checked) -> None:
    (project / "family" / "max" / "model.safetensors").unlink()
    assert "family/max: no model.safetensors" in refused()
    (project / "family" / "max" / "pytorch_model.bin").write_bytes(b"")
    assert "only pytorch_model.bin is there" in refused()


def test_a_missing_shard(project: Path, refused: Checked) -> None:
    folder = project / "family" / "max"
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {name: f"model-0000{1 + (name == names[-1])}-of-00002.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "model-00002-of-00002.safetensors: missing" in refused()


@pytest.mark.parametrize("broken", ["", "{", "[1, 2]"])
def test_a_broken_configuration(project: Path, refused: Checked, broken: str) -> None:
    (project / "family" / "max" / "config.json").write_text(broken)
    assert "family/max/config.json" in refused()


def test_a_missing_tokenizer(project: Path, refused: Checked) -> None:
    for path in (project / "family" / "base").glob("tokenizer*"):
        path.unlink()
    assert "family/base: no tokenizer" in refused()


def test_a_hub_model_that_cannot_be_reached(refused: Checked) -> None:
    line = refused("experts.last=nobody/no-such-model@main")
    assert line.startswith("evomerge: nobody/no-such-model") and "check the spelling" in line


def test_a_revision_of_a_local_folder(refused: Checked) -> None:
    assert "drop the @main" in refused("base=family/base@main")


def test_experts_of_other_shapes_are_all_listed_by_tensor(project: Path) -> None:
    """One look at the message tells everything that is wrong with every expert."""
    like = project / "family" / "base"
    save_other(project / "family" / "shift", like, num_hidden_layers=3)
    save_other(project / "family" / "last", like, intermediate_size=100)
    save_other(project / "family" / "max", like, hidden_size=48)
    said = evomerge("check", "+experiment=mine", *SMALL, cwd=project)
    assert said.code == 1 and "Traceback" not in said.err
    lines = said.err.splitlines()
    assert len(lines) == 3
    for line, expert, texts in (
        (lines[0], "shift", ("num_hidden_layers 3 (base 4)", "model.layers.3.")),
        (lines[1], "last", ("model.layers.0.mlp.", "[100, 96] (base")),
        (lines[2], "max", ("hidden_size 48 (base 96)", "model.embed_tokens.weight [")),
    ):
        assert f"family/{expert} does not fit the base" in line
        assert all(text in line for text in texts), line


def test_an_expert_with_more_rows_is_read_as_far_as_the_bases_go(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_other(project / "family" / "max", project / "family" / "base", vocab_size=50)
    said = evomerge("check", "+experiment=mine", *SMALL, cwd=project)
    assert said.code == 0 and "family/max: 50 rows of its vocabulary, the base has 35" in caplog.text


def test_an_expert_of_another_architecture(project: Path, refused: Checked) -> None:
    edit_config(project / "family" / "last", model_type="gpt2")
    assert "its architecture is gpt2, not llama" in refused()


def test_an_expert_with_a_missing_or_an_extra_tensor(project: Path, refused: Checked) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.mlp.extra.weight"] = tensors.pop("model.layers.0.mlp.up_proj.weight")

    edit_weights(project / "family" / "last", change)
    line = refused()
    assert "model.layers.0.mlp.up_proj.weight missing" in line and "model.layers.0.mlp.extra.weight extra" in line


def test_a_base_that_lacks_a_tensor(project: Path, refused: Checked) -> None:
    edit_weights(project / "family" / "base", lambda tensors: tensors.__delitem__("model.norm.weight"))
    assert "family/base: model.norm.weight not in the weight files" in refused()


def test_weights_that_are_no_floats(project: Path, refused: Checked) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)

    edit_weights(project / "family" / "last", change)
    assert "model.norm.weight of dtype I8" in refused()


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("flag", [True, False])
def test_an_expert_with_a_head_of_its_own_beside_a_tied_base(project: Path, flag: bool) -> None:
    """The family then has a head to merge, whatever the flag says."""
    edit_config(project / "family" / "last", tie_word_embeddings=flag)
    tied = evomerge("check", "+experiment=mine", *SMALL, cwd=project).out
    edit_weights(project / "family" / "last", lambda t: t["lm_head.weight"].add_(1))
    untied = evomerge("check", "+experiment=mine", *SMALL, cwd=project).out
    assert "38 tensors" in tied and "39 tensors" in untied


def test_a_quantised_base_is_announced_and_not_dequantised(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    edit_weights(project / "family" / "base", lambda tensors: tensors.__delitem__("lm_head.weight"))
    quantise(project / "family" / "base")
    shown = evomerge("check", "+experiment=mine", *SMALL, cwd=project).out
    line = next(line for line in shown.splitlines() if line.startswith("dequant."))
    assert "fp8 in blocks of 4×4 as bfloat16" in line and "will be made once" in line and "of the disk are free" in line
    assert "of base and experts" in shown and not list((tmp_path / "cache").rglob("*.safetensors"))


def test_an_unknown_quantisation(project: Path, refused: Checked) -> None:
    edit_config(project / "family" / "last", quantization_config={"quant_method": "quip"})
    assert "family/last: quantised by quip, which cannot be dequantised here" in refused()


def save_adapter(base: Path, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers for a renamed attribute
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"])).save_pretrained(folder)


def test_an_adapter_is_described(project: Path) -> None:
    save_adapter(project / "family" / "base", project / "adapter")
    said = evomerge("check", "+experiment=mine", *SMALL, "experts.last=adapter", cwd=project)
    assert said.code == 0, said
    assert "last: family/base+adapter, 8 tensors" in said.out


def test_an_adapter_of_another_base(project: Path, refused: Checked) -> None:
    save_other(project / "family" / "max", project / "family" / "base", hidden_size=48, num_hidden_layers=5)
    save_adapter(project / "family" / "max", project / "adapter")
    line = refused("experts={last: adapter}", "~experts.shift", "~experts.max", "experts.last=adapter")
    assert "adapter" in line and "does not fit" in line and "[192, 48] in the adapter, [192, 96] in the base" in line


def test_a_truncated_adapter(project: Path, refused: Checked) -> None:
    save_adapter(project / "family" / "base", project / "adapter")
    path = project / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "adapter/adapter_model.safetensors: truncated" in refused("experts.last=adapter")


def test_another_configuration_of_the_run_folder(mine: Path) -> None:
    line = evomerge("check", "+experiment=mine", *SMALL, "seed=5", cwd=mine).refused(1)
    assert "seed: 1 → 5" in line and "runs/mine" in line
