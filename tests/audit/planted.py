"""Faults to plant in a healthy tiny family: each changes files of one model, and says which finding names it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.audit.inspection import Audit, audit_family
from evomerge.models.family import Family
from evomerge.models.references import resolve_expert
from evomerge.recipes.recipe import ModelRef
from tests.families import save_tokenizer

Edit = Callable[[dict[str, Tensor]], None]
UP = "model.layers.1.mlp.up_proj.weight"


@dataclass
class Models:
    """A copy of a healthy family to break: full experts and adapters beside their base, by label."""

    root: Path
    labels: list[str]

    def folder(self, label: str) -> Path:
        return self.root / label

    def weights(self, label: str) -> dict[str, Tensor]:
        return load_file(self._file(label))

    def save(self, label: str, tensors: dict[str, Tensor]) -> None:
        save_file({name: t.clone().contiguous() for name, t in tensors.items()}, self._file(label), {"format": "pt"})

    def edit(self, label: str, change: Edit) -> None:
        tensors = self.weights(label)
        change(tensors)
        self.save(label, tensors)

    def copy(self, label: str, name: str) -> None:
        shutil.copytree(self.folder(label), self.folder(name))
        self.labels.append(name)

    def settings(self, label: str, file: str, **changes: object) -> None:
        path = self.folder(label) / file
        found = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(found | changes))

    def delta(self, label: str) -> dict[str, Tensor]:
        base = self.weights("base")
        return {name: t.double() - base[name].double() for name, t in self.weights(label).items()}

    def add(self, label: str, deltas: dict[str, Tensor], factor: float = 1.0) -> None:
        """Add a task vector to a full checkpoint."""

        def change(tensors: dict[str, Tensor]) -> None:
            for name, delta in deltas.items():
                tensors[name] = (tensors[name].double() + factor * delta).to(tensors[name].dtype)

        self.edit(label, change)

    def audit(self, dtype: str = "float32") -> Audit:
        base = ModelRef(str(self.folder("base")))
        experts = {label: resolve_expert(str(self.folder(label)), base) for label in self.labels}
        return audit_family(Family(base, experts.values()), experts, dtype)

    def _file(self, label: str) -> Path:
        names = ("model.safetensors", "adapter_model.safetensors")
        return next(self.folder(label) / name for name in names if (self.folder(label) / name).is_file())


@dataclass(frozen=True)
class Fault:
    """What is planted, the kind of the finding, and the labels that it names."""

    plant: Callable[[Models], None]
    kind: str
    who: tuple[str, ...]


def setting(name: str, index: tuple[int, ...], value: float) -> Edit:
    """One element, set to a value."""

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name][index] = value

    return change


def times(factor: float, text: str = "") -> Edit:
    """The tensors whose name contains a text, times a factor."""

    def change(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            if text in name:
                tensors[name] = tensors[name] * factor

    return change


def random(seed: int) -> Edit:
    """Every matrix drawn anew, as by another training."""

    def change(tensors: dict[str, Tensor]) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in tensors.items():
            if tensor.dim() > 1:
                tensors[name] = 0.3 * torch.randn(tensor.shape, generator=generator)

    return change


def layers_moved(tensors: dict[str, Tensor]) -> None:
    """Layers 0 and 2 exchanged."""
    old = dict(tensors)
    for name in old:
        if ".layers.0." in name:
            other = name.replace(".layers.0.", ".layers.2.")
            tensors[name], tensors[other] = old[other], old[name]


def scaled_delta(label: str, factor: float, text: str = "") -> Callable[[Models], None]:
    """The delta of the tensors whose name contains a text, times a factor."""

    def plant(models: Models) -> None:
        deltas = {name: delta for name, delta in models.delta(label).items() if text in name}
        models.add(label, deltas, factor - 1)

    return plant


def edited(label: str, change: Edit) -> Callable[[Models], None]:
    return lambda models: models.edit(label, change)


def configured(label: str, file: str, **changes: object) -> Callable[[Models], None]:
    return lambda models: models.settings(label, file, **changes)


def swapped(models: Models) -> None:
    models.folder("base").rename(models.root / "kept")
    models.folder("e1").rename(models.folder("base"))
    (models.root / "kept").rename(models.folder("e1"))


def sum_of_two(models: Models) -> None:
    models.copy("base", "sum")
    models.add("sum", models.delta("e1"))
    models.add("sum", models.delta("e2"))


def trained_on(models: Models) -> None:
    """`e2` was trained on from `e1`."""
    models.add("e2", models.delta("e1"))


def lora_delta(models: Models, label: str) -> dict[str, Tensor]:
    tensors = models.weights(label)
    config = json.loads((models.folder(label) / "adapter_config.json").read_text())
    downs = {name: t for name, t in tensors.items() if ".lora_A." in name}
    return {
        name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight"): (
            tensors[name.replace(".lora_A.", ".lora_B.")].double() @ down.double() * config["lora_alpha"] / config["r"]
        )
        for name, down in downs.items()
    }


def adapter_in_base(models: Models) -> None:
    models.settings("a3", "adapter_config.json", lora_alpha=16)  # in a tiny model, a small delta is lost in noise
    models.add("base", lora_delta(models, "a3"))


def adapter_merged(models: Models) -> None:
    models.copy("base", "merged")
    models.add("merged", lora_delta(models, "a1"))


def other_origin(models: Models) -> None:
    """All full experts were trained from another model than the base."""
    base = models.weights("base")
    generator = torch.Generator().manual_seed(9)
    part = {name: 0.15 * torch.randn(t.shape, generator=generator).double() for name, t in base.items() if t.dim() > 1}
    for label in models.labels:
        models.add(label, part)


def scaled_copy(models: Models) -> None:
    models.copy("e1", "copy")
    scaled_delta("copy", 3.0)(models)


def near_copy(models: Models) -> None:
    models.copy("base", "near")
    models.add("near", models.delta("e1"))
    models.add("near", models.delta("e2"), 0.15)


def opposite(models: Models) -> None:
    models.copy("base", "opposite")
    models.add("opposite", models.delta("e1"), -0.8)


def half_zero(name: str) -> Edit:
    """The second half of the rows is zero, as in a file that was cut off."""

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name][len(tensors[name]) // 2 :] = 0

    return change


def tiny(tensors: dict[str, Tensor]) -> None:
    tensors[UP] = torch.full_like(tensors[UP], 1e-40)


def no_up(text: str) -> Edit:
    """lora_B of the modules whose name contains a text is zero."""

    def change(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            if ".lora_B." in name and text in name:
                tensors[name] = torch.zeros_like(tensors[name])

    return change


def without(text: str) -> Edit:
    """The tensors whose name contains a text are not in the file."""

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if text in name]:
            del tensors[name]

    return change


def in_float16(label: str, change: Edit) -> Callable[[Models], None]:
    def half(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].half()
        change(tensors)

    return edited(label, half)


def as_int8(tensors: dict[str, Tensor]) -> None:
    for name in tensors:
        if ".lora_B." in name:
            tensors[name] = (tensors[name] * 100).to(torch.int8)


def base_layers(models: Models) -> None:
    """Layer 1 of `e2` is the base's."""
    base = models.weights("base")
    models.edit("e2", lambda tensors: tensors.update({n: t for n, t in base.items() if ".layers.1." in n}))


def with_tokenizers(change: Callable[[Models], None]) -> Callable[[Models], None]:
    """A tokenizer with a chat template in base and `e1`, then a change of that of `e1`."""

    def plant(models: Models) -> None:
        for label in ("base", "e1"):
            save_tokenizer(WORDS, models.folder(label), "{{ messages[0].content }}")
        change(models)

    return plant


def words(models: Models, *spoken: str) -> None:
    save_tokenizer(list(spoken), models.folder("e1"), "{{ messages[0].content }}")


def rslora(models: Models) -> None:
    """Two adapters of the same fields as `a1`, which alone says that its scale is alpha/√r."""
    for name in ("a2", "a3"):
        shutil.rmtree(models.folder(name))
        shutil.copytree(models.folder("a1"), models.folder(name))
        models.edit(name, drawn(seed=int(name[1])))
    models.settings("a1", "adapter_config.json", use_rslora=True)


def drawn(seed: int) -> Edit:
    """Every factor drawn anew."""

    def change(tensors: dict[str, Tensor]) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name in tensors:
            tensors[name] = 0.1 * torch.randn(tensors[name].shape, generator=generator)

    return change


def saved_embedding(models: Models) -> None:
    generator = torch.Generator().manual_seed(5)

    def change(tensors: dict[str, Tensor]) -> None:
        tensors["base_model.model.model.embed_tokens.weight"] = torch.randn(37, 12, generator=generator)

    models.edit("a1", change)
    models.settings("a1", "adapter_config.json", modules_to_save=["embed_tokens"])


WORDS = ["one", "two", "three", "four", "<unk>", "</s>"]
ALPHA, CARD = "adapter_config.json", "---\nbase_model: someone/other-7B\n---\n"
LORA_UP = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"

FULL: dict[str, Fault] = {
    "another training": Fault(edited("e2", random(4)), "wrong base", ("e2",)),
    "another base": Fault(edited("base", random(4)), "wrong base", ("e1",)),
    "another origin of all": Fault(other_origin, "wrong base", ("e1", "e2", "e3")),
    "model card": Fault(lambda m: (m.folder("e2") / "README.md").write_text(CARD) and None, "wrong base", ("e2",)),
    "swapped": Fault(swapped, "base and expert swapped", ("e1",)),
    "layers exchanged": Fault(edited("e2", layers_moved), "permuted layers", ("e2",)),
    "one tensor drawn anew": Fault(
        edited("e2", lambda t: t.update({UP: torch.randn(18, 12, generator=torch.Generator().manual_seed(3))})),
        "wrong tensor",
        ("e2",),
    ),
    "equal to the base": Fault(lambda m: m.save("e2", m.weights("base")), "equal to the base", ("e2",)),
    "near zero": Fault(scaled_delta("e2", 1e-5), "near-zero delta", ("e2",)),
    "layer of the base": Fault(base_layers, "layers without delta", ("e2",)),
    "delta of a tensor × 10": Fault(scaled_delta("e1", 10, UP), "norm of a tensor", ("e1",)),
    "tensor × 10": Fault(edited("e1", times(10, UP)), "norm of a tensor", ("e1",)),
    "norm's weight × 10": Fault(edited("e1", times(10, "layers.1.input_layernorm")), "norm of a tensor", ("e1",)),
    "layer × 10": Fault(scaled_delta("e1", 10, ".layers.1."), "norm of a layer", ("e1",)),
    "layer ÷ 10": Fault(scaled_delta("e1", 0.1, ".layers.1."), "norm of a layer", ("e1",)),
    "expert ÷ 100": Fault(scaled_delta("e2", 0.01), "scale of experts", ("e2",)),
    "equal files": Fault(lambda m: m.copy("e1", "copy"), "duplicate", ("e1", "copy")),
    "scaled copy": Fault(scaled_copy, "duplicate", ("e1", "copy")),
    "redundant": Fault(near_copy, "redundant pair", ("e1", "near")),
    "opposed": Fault(opposite, "opposed pair", ("e1", "opposite")),
    "sum of two": Fault(sum_of_two, "merged twice", ("sum", "e1", "e2")),
    "trained on": Fault(trained_on, "merged twice", ("e2", "e1")),
    "NaN": Fault(edited("e1", setting(UP, (1, 1), float("nan"))), "not finite", ("e1",)),
    "infinity": Fault(edited("e1", setting(UP, (1, 1), float("inf"))), "not finite", ("e1",)),
    "NaN of the base": Fault(edited("base", setting(UP, (1, 1), float("nan"))), "not finite", ("base",)),
    "float16 overflow": Fault(in_float16("e1", setting(UP, (1, 1), float("inf"))), "not finite", ("e1",)),
    "float16 saturated": Fault(in_float16("e1", setting(UP, (1, 1), 65504.0)), "dtype", ("e1",)),
    "huge": Fault(edited("e1", setting(UP, (1, 1), 1e6)), "huge values", ("e1",)),
    "denormal": Fault(edited("e1", tiny), "denormal values", ("e1",)),
    "rows of zeros": Fault(edited("e1", half_zero(UP)), "zeroed block", ("e1",)),
    "zeros of the base": Fault(edited("base", half_zero(UP)), "zeroed block", ("base",)),
    "rope_theta": Fault(
        configured("e1", "config.json", rope_parameters={"rope_theta": 5e5, "rope_type": "default"}),
        "config clash",
        ("e1",),
    ),
    "rope_theta of older readers": Fault(configured("e1", "config.json", rope_theta=5e5), "config clash", ("e1",)),
    "a row of zeros": Fault(
        edited("e1", lambda tensors: tensors.update({UP: tensors[UP].index_fill(0, torch.tensor([3]), 0.0)})),
        "zeroed block",
        ("e1",),
    ),
    "rms_norm_eps": Fault(configured("e1", "config.json", rms_norm_eps=1e-3), "config clash", ("e1",)),
    "hidden_act": Fault(configured("e1", "config.json", hidden_act="gelu"), "config clash", ("e1",)),
    "heads": Fault(
        configured("e1", "config.json", num_attention_heads=4, num_key_value_heads=2, head_dim=3),
        "config clash",
        ("e1",),
    ),
    "eos of generation": Fault(
        configured("e1", "generation_config.json", eos_token_id=7), "generation config", ("e1",)
    ),
    "eos": Fault(configured("e1", "config.json", eos_token_id=7), "special tokens", ("e1",)),
    "chat template": Fault(
        with_tokenizers(lambda m: save_tokenizer(WORDS, m.folder("e1"), "<s>{{ messages }}")), "chat template", ("e1",)
    ),
    "template in the settings": Fault(
        with_tokenizers(lambda m: save_tokenizer(WORDS, m.folder("e2"), "<s>{{ messages }}", inline=True)),
        "chat template",
        ("e2",),
    ),
    "other tokens": Fault(
        with_tokenizers(lambda m: words(m, "one", "three", "two", "four", "<unk>", "</s>")), "tokenizer", ("e1",)
    ),
    "more tokens": Fault(with_tokenizers(lambda m: words(m, *WORDS[:4], "<pad>", *WORDS[4:])), "tokenizer", ("e1",)),
    "other special token": Fault(
        with_tokenizers(lambda m: m.settings("e1", "tokenizer_config.json", eos_token="four")),
        "special tokens",
        ("e1",),
    ),
    "tie without a head": Fault(configured("e1", "config.json", tie_word_embeddings=True), "config clash", ("e1",)),
}

ADAPTERS: dict[str, Fault] = {
    "all lora_B zero": Fault(edited("a1", no_up("")), "equal to the base", ("a1",)),
    "alpha zero": Fault(configured("a1", ALPHA, lora_alpha=0), "equal to the base", ("a1",)),
    "lora_B of a layer zero": Fault(edited("a1", no_up("layers.1.")), "layers without delta", ("a1",)),
    "layer missing": Fault(edited("a1", without("layers.1.")), "layers without delta", ("a1",)),
    "module missing": Fault(edited("a1", without("down_proj")), "adapter fields", ("a1",)),
    "factor × 10": Fault(edited("a1", times(10, LORA_UP)), "norm of a tensor", ("a1",)),
    "alpha × 10": Fault(configured("a1", ALPHA, lora_alpha=60), "adapter fields", ("a1",)),
    "alpha ÷ 10": Fault(configured("a1", ALPHA, lora_alpha=0.4), "adapter fields", ("a1",)),
    "alpha × 10, by norm": Fault(configured("a1", ALPHA, lora_alpha=60), "scale of experts", ("a1",)),
    "rslora": Fault(rslora, "adapter fields", ("a1",)),
    "pattern": Fault(configured("a1", ALPHA, alpha_pattern={"gate_proj": 4}), "adapter fields", ("a1",)),
    "other base's name": Fault(
        configured("a1", ALPHA, base_model_name_or_path="someone/other-7B"), "wrong base", ("a1",)
    ),
    "saved embedding": Fault(saved_embedding, "wrong base", ("a1",)),
    "NaN in a factor": Fault(edited("a1", setting(LORA_UP, (0, 0), float("nan"))), "not finite", ("a1",)),
    "huge factor": Fault(edited("a1", setting(LORA_UP, (0, 0), 1e5)), "huge values", ("a1",)),
    "int8 factors": Fault(edited("a1", as_int8), "dtype", ("a1",)),
    "zeros in a factor": Fault(edited("a1", half_zero(LORA_UP)), "zeroed block", ("a1",)),
    "equal adapters": Fault(lambda m: m.copy("a1", "copy"), "duplicate", ("a1", "copy")),
    "base holds the adapter": Fault(adapter_in_base, "merged twice", ("a3", "base")),
    "adapter and its merge": Fault(adapter_merged, "duplicate", ("a1", "merged")),
}
