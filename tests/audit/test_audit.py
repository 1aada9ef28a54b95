"""The audit finds every planted fault by its kind and model, and nothing in healthy families."""

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedModel

from evomerge.audit import audit_family
from evomerge.models import Family, resolve_expert
from evomerge.recipes import ModelRef
from tests import families
from tests.audit.planted import ADAPTERS, ALPHA, FULL, Models, scaled_delta, without
from tests.families import save_adapter, save_family

Change = Callable[[Models], None]


def gemma() -> PreTrainedModel:
    sizes = {"hidden_size": 12, "intermediate_size": 18, "vocab_size": 37, "num_hidden_layers": 3, "head_dim": 6}
    return Gemma3ForCausalLM(Gemma3TextConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))


@pytest.fixture(scope="module", autouse=True)
def with_gemma() -> None:
    families.BUILDERS.setdefault("gemma", gemma)
    families.TARGETS.setdefault("gemma", ["q_proj", "down_proj"])


def healthy(kind: str, root: Path, dtype: torch.dtype = torch.float32) -> Models:
    """A base, the full experts e1 to e3 and the adapters a1 to a3 of ranks 2 to 4."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = save_family(kind, root, dtype, experts=4)
        for number in (1, 2, 3):
            save_adapter(kind, made.base, root / f"a{number}", rank=1 + number, seed=number)
    return Models(root, ["e1", "e2", "e3", "a1", "a2", "a3"])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return healthy("llama", tmp_path_factory.mktemp("llama")).root


def copy(root: Path, place: Path, labels: list[str]) -> Models:
    return Models(Path(shutil.copytree(root, place / "family")), labels)


@pytest.mark.sampled(20)
@pytest.mark.parametrize("name", FULL)
def test_a_fault_of_a_full_checkpoint_is_found(llama: Path, tmp_path: Path, name: str) -> None:
    models, fault = copy(llama, tmp_path, ["e1", "e2", "e3"]), FULL[name]
    fault.plant(models)
    found = [(finding.kind, finding.who) for finding in models.audit().findings]
    assert (fault.kind, fault.who) in found


@pytest.mark.sampled(10)
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_fault_of_an_adapter_is_found(llama: Path, tmp_path: Path, name: str) -> None:
    models, fault = copy(llama, tmp_path, ["a1", "a2", "a3"]), ADAPTERS[name]
    fault.plant(models)
    found = [(finding.kind, finding.who) for finding in models.audit().findings]
    assert (fault.kind, fault.who) in found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "gemma"])
def test_a_healthy_family_has_no_finding(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    models = healthy(kind, tmp_path, dtype)
    for labels in (["e1", "e2", "e3"], ["a1", "a2", "a3"], models.labels, ["e1", "a2"], ["e2"]):
        models.labels = labels
        assert not models.audit().findings


def real_families() -> list[tuple[str, dict[str, str]]]:
    """The quickstart's family, and those that environment variables name."""
    quickstart = Path(__file__).parents[2] / "experiments" / "quickstart" / "family"
    found = [(str(quickstart / "base"), {label: str(quickstart / label) for label in ("shift", "last", "max")})]
    for base, experts in (
        ("SMOLLM2_BASE", "SMOLLM2_ADAPTERS"),
        ("SMOLLM2_BASE", "SMOLLM2_FULL"),
        ("GEMMA3_BASE", "GEMMA3_ADAPTERS"),
    ):
        if os.environ.get(base) and os.environ.get(experts):
            folders = sorted(path for path in Path(os.environ[experts]).iterdir() if path.is_dir())
            found.append((os.environ[base], {path.name: str(path) for path in folders}))
    return found


@pytest.mark.parametrize(
    ("base", "experts"), real_families(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_real_family_has_no_finding(base: str, experts: dict[str, str]) -> None:
    ref = ModelRef(base)
    refs = {label: resolve_expert(path, ref) for label, path in experts.items()}
    assert not audit_family(Family(ref, refs.values()), refs).findings


def test_rounding_a_base_to_bfloat16_is_no_delta(llama: Path, tmp_path: Path) -> None:
    models = copy(llama, tmp_path, ["e1", "e2", "e3"])
    for label in models.labels:
        models.edit(label, lambda tensors: tensors.update({name: t.bfloat16() for name, t in tensors.items()}))
    assert not models.audit().findings
    models.save("e2", {name: tensor.bfloat16() for name, tensor in models.weights("base").items()})
    assert [(f.kind, f.who) for f in models.audit().findings] == [("equal to the base", ("e2",))]


def test_a_copy_of_the_base_in_its_own_folder_and_its_path_are_the_base(llama: Path, tmp_path: Path) -> None:
    models = copy(llama, tmp_path, ["e1", "base"])
    assert [(f.kind, f.who) for f in models.audit().findings] == [("equal to the base", ("base",))]


def tied(models: Models) -> None:
    """`e2` has tied its head to the embedding, the base has not."""
    models.edit("e2", without("lm_head"))
    models.settings("e2", "config.json", tie_word_embeddings=True)


def untied(models: Models) -> None:
    """Base and experts have one tensor for head and embedding; only `e2` has a head of its own, and says so."""
    for label in ("base", "e1", "e2", "e3"):
        models.edit(label, without("lm_head"))
        models.settings(label, "config.json", tie_word_embeddings=True)
    models.edit("e2", lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"] + 0.01}))
    models.settings("e2", "config.json", tie_word_embeddings=False)


def upper_layers(models: Models) -> None:
    """The adapters change the layers 1 and 2 only, by their configuration."""
    for label in ("a1", "a2", "a3"):
        models.edit(label, without("layers.0."))
        models.settings(label, ALPHA, layers_to_transform=[1, 2])


def attention(models: Models) -> None:
    """`a2` changes the attention only, `a1` everything."""
    models.edit("a2", without("down_proj"))
    models.settings("a2", ALPHA, target_modules=["q_proj"])


def frozen(models: Models) -> None:
    """`e2` was trained in its last layer only."""
    base = models.weights("base")
    models.edit("e2", lambda tensors: tensors.update({n: t for n, t in base.items() if ".layers.2." not in n}))


def larger(models: Models) -> None:
    scaled_delta("e1", 2.0)(models)


@pytest.mark.parametrize(
    "change", [tied, untied, upper_layers, attention, frozen, larger], ids=lambda change: change.__name__
)
def test_what_a_healthy_family_can_have_is_no_finding(llama: Path, tmp_path: Path, change: Change) -> None:
    models = copy(llama, tmp_path, [])
    change(models)
    for labels in (["e1", "e2", "e3"], ["a1", "a2", "a3"]):
        models.labels = labels
        assert not models.audit().findings
