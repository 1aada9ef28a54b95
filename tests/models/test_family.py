"""Base and experts against one another: Llama, GPT-2 and T5, full and adapters, names and ties."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from evomerge.errors import ExpertError
from evomerge.kernels.factors import Factors
from evomerge.kernels.sources import Update
from evomerge.models.family import Family
from evomerge.models.references import resolve_expert
from evomerge.recipes.recipe import ModelRef
from tests.families import BUILDERS, Folders, save_adapter, save_family


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Folders]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {kind: save_family(kind, tmp_path_factory.mktemp(kind)) for kind in BUILDERS}


@pytest.fixture
def llama(saved: dict[str, Folders], tmp_path: Path) -> Folders:
    """A copy to break."""
    root = Path(saved["llama"].base.path).parent
    copy = Path(shutil.copytree(root, tmp_path / "llama"))
    return Folders(ModelRef(str(copy / "base")), tuple(ModelRef(str(copy / f"e{i}")) for i in range(3)))


def rename(folder: str, change: dict[str, str] | None = None, prefix: tuple[str, str] = ("", "")) -> None:
    """Rewrites the weight file under other tensor names."""
    path = Path(folder) / "model.safetensors"
    tensors = load_file(path)
    named = {(change or {}).get(name, prefix[1] + name.removeprefix(prefix[0])): t for name, t in tensors.items()}
    save_file(named, path, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", list(BUILDERS))
def test_every_parameter_of_the_live_model_is_found_once(saved: dict[str, Folders], kind: str) -> None:
    folders = saved[kind]
    family = Family(folders.base, folders.experts)
    model = BUILDERS[kind]()
    assert sorted(family.base.parameter.values()) == sorted(name for name, _ in model.named_parameters())
    assert set(family.base.parameter) <= set(family.base.checkpoint)
    for ref in folders.experts:
        assert family.touched(ref) == set(family.base.parameter)
        assert all(isinstance(family.update(ref, name), Tensor) for name in family.base.parameter)


@pytest.mark.parametrize("kind", list(BUILDERS))
def test_shards_are_the_same_family(saved: dict[str, Folders], kind: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folders = save_family(kind, tmp_path, shard="4KB")
    assert (Path(folders.base.path) / "model.safetensors.index.json").is_file()
    ours, theirs = Family(folders.base, folders.experts), Family(saved[kind].base, saved[kind].experts)
    for name in theirs.base.parameter:
        assert torch.equal(ours.base.checkpoint.tensor(name), theirs.base.checkpoint.tensor(name))


def test_the_base_brings_nothing_new_to_itself(saved: dict[str, Folders]) -> None:
    folders = saved["llama"]
    family = Family(folders.base, folders.experts)
    assert family.update(folders.base, "model.norm.weight") is None


def test_an_expert_saved_without_the_heads_prefix_is_the_same_expert(llama: Folders) -> None:
    expected = load_file(Path(llama.experts[1].path) / "model.safetensors")
    rename(llama.experts[1].path, prefix=("model.", ""))
    family = Family(llama.base, llama.experts)
    for name in family.base.parameter:
        found = family.update(llama.experts[1], name)
        assert isinstance(found, Tensor) and torch.equal(found, expected[name])


def test_a_base_saved_without_the_heads_prefix_is_the_same_base(llama: Folders) -> None:
    rename(llama.base.path, prefix=("model.", ""))
    family = Family(llama.base, llama.experts)
    assert "layers.0.self_attn.q_proj.weight" in family.base.parameter
    assert set(family.base.parameter.values()) == {name for name, _ in BUILDERS["llama"]().named_parameters()}
    assert family.layout.layers == 3


def test_every_expert_that_does_not_fit_has_its_line(llama: Folders) -> None:
    rename(llama.experts[0].path, {"model.norm.weight": "model.norm.scale"})
    rename(llama.experts[2].path, {"model.layers.2.mlp.up_proj.weight": "nowhere"})
    with pytest.raises(ExpertError) as caught:
        Family(llama.base, llama.experts)
    first, second = str(caught.value).splitlines()
    assert llama.experts[0].path in first and "model.norm.weight missing; model.norm.scale extra" in first
    assert llama.experts[2].path in second and "model.layers.2.mlp.up_proj.weight missing; nowhere extra" in second


def test_a_long_list_of_problems_is_cut(llama: Folders) -> None:
    names = list(load_file(Path(llama.experts[0].path) / "model.safetensors"))
    rename(llama.experts[0].path, {name: f"x.{name}" for name in names})
    with pytest.raises(ExpertError, match=r"and \d+ more") as caught:
        Family(llama.base, llama.experts)
    assert len(str(caught.value)) < 1000


def test_another_architecture_shows_from_the_configuration_alone(saved: dict[str, Folders], tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    shutil.copy(Path(saved["gpt2"].base.path) / "config.json", tmp_path / "e")  # no weights at all
    with pytest.raises(ExpertError, match="its architecture is gpt2, not llama"):
        Family(saved["llama"].base, [ModelRef(str(tmp_path / "e"))])


def test_a_base_that_does_not_fit_its_configuration(llama: Folders) -> None:
    path = Path(llama.base.path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 20}))
    with pytest.raises(ExpertError, match=r"mlp\.\w+\.weight is \[\d+, \d+\], config\.json wants"):
        Family(llama.base, [])


def test_rotary_tables_of_old_checkpoints_are_no_problem(llama: Folders) -> None:
    path = Path(llama.experts[0].path) / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)
    save_file(tensors, path, metadata={"format": "pt"})
    Family(llama.base, llama.experts)


def dense(update: Update) -> Tensor:
    assert isinstance(update, Factors)
    return update.delta()


@pytest.mark.parametrize("kind", list(BUILDERS))
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_full_and_adapter_experts_stand_together(saved: dict[str, Folders], kind: str, tmp_path: Path) -> None:
    folders = saved[kind]
    adapter, merged = save_adapter(kind, folders.base, tmp_path / "adapter", rank=2, seed=5)
    ref = resolve_expert(str(tmp_path / "adapter"), folders.base)
    assert ref == adapter
    family = Family(folders.base, [*folders.experts, ref])
    touched = family.touched(ref)
    assert touched and touched < set(family.base.parameter)
    for name in family.base.parameter:
        base = family.base.checkpoint.tensor(name)
        expected = merged[family.base.parameter[name]]
        if name in touched:
            assert torch.allclose(base + dense(family.update(ref, name)), expected, atol=1e-6)
        else:
            assert family.update(ref, name) is None and torch.equal(base, expected)
        assert torch.allclose(family.dense(ref, name), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_an_adapter_on_another_checkpoint_is_that_checkpoint_with_the_adapter(
    saved: dict[str, Folders], tmp_path: Path
) -> None:
    folders = saved["llama"]
    _, merged = save_adapter("llama", folders.experts[0], tmp_path / "adapter", rank=2, seed=5)
    ref = ModelRef(folders.experts[0].path, adapter=str(tmp_path / "adapter"))
    family = Family(folders.base, [ref])
    for name, parameter in family.base.parameter.items():
        update = family.update(ref, name)
        assert isinstance(update, Tensor)
        assert torch.allclose(update, merged[parameter], atol=1e-6)
    assert AutoModelForCausalLM.from_pretrained(folders.experts[0].path) is not None


def test_an_adapter_folder_is_no_full_expert(saved: dict[str, Folders], tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ExpertError, match=r"a LoRA adapter without its base; write it as .*base\+"):
        Family(saved["llama"].base, [ModelRef(str(tmp_path))])


def test_hashes_name_every_model(saved: dict[str, Folders]) -> None:
    folders = saved["t5"]
    hashes = Family(folders.base, folders.experts).hashes()
    assert list(hashes) == [str(ref) for ref in (folders.base, *folders.experts)]
    assert len(set(hashes.values())) == 4 and all(len(digest) == 64 for digest in hashes.values())
