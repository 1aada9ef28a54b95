"""Names → stacks, depths and groups, on names only and on the parameters of real architectures."""

import pytest

from evomerge.errors import ConfigError
from evomerge.models.groups import Group, Layout, layer_of, outer_kind, shift_layer
from tests.families import BUILDERS

LLAMA = "model.layers.11.self_attn.q_proj.weight"
NAMES = {kind: [name for name, _ in build().named_parameters()] for kind, build in BUILDERS.items()}


def members(layout: Layout, groups: tuple[Group, ...]) -> dict[str, list[str]]:
    """First match wins, as the rules of a recipe have it."""
    found: dict[str, list[str]] = {group.name: [] for group in groups}
    for name in layout.names:
        owner = next(g for g in groups if any(text is None or text in name for text in g.filters))
        found[owner.name].append(name)
    return found


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (LLAMA, ("model.layers", 11)),
        ("transformer.h.0.attn.c_attn.weight", ("transformer.h", 0)),
        ("h.3.ln_1.bias", ("h", 3)),
        ("encoder.block.1.layer.0.SelfAttention.q.weight", ("encoder.block", 1)),
        ("bert.encoder.layer.7.attention.self.query.weight", ("bert.encoder.layer", 7)),
        ("gpt_neox.layers.2.attention.dense.weight", ("gpt_neox.layers", 2)),
        ("model.decoder.layers.5.fc1.weight", ("model.decoder.layers", 5)),
        ("transformer.blocks.4.ffn.up_proj.weight", ("transformer.blocks", 4)),
        ("model.embed_tokens.weight", None),
        ("lm_head.weight", None),
        ("model.norm.weight", None),
        ("model.layers.weight", None),
    ],
)
def test_layer_of(name: str, place: tuple[str, int] | None) -> None:
    assert layer_of(name) == place


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.embed_tokens.weight", "embeddings"),
        ("transformer.wte.weight", "embeddings"),
        ("transformer.wpe.weight", "embeddings"),
        ("shared.weight", "embeddings"),
        ("gpt_neox.embed_in.weight", "embeddings"),
        ("embed_out.weight", "head"),
        ("lm_head.weight", "head"),
        ("lm_head.bias", "head"),
        ("model.norm.weight", "final_norm"),
        ("transformer.ln_f.bias", "final_norm"),
        ("encoder.final_layer_norm.weight", "final_norm"),
        ("model.projector.weight", "other"),
    ],
)
def test_outer_kind(name: str, kind: str) -> None:
    assert outer_kind(name) == kind


def test_shift_layer_moves_one_stack_only() -> None:
    assert shift_layer(LLAMA, "model.layers", -4) == "model.layers.7.self_attn.q_proj.weight"
    assert shift_layer(LLAMA, "other.layers", 3) == LLAMA
    assert shift_layer("lm_head.weight", "model.layers", 3) == "lm_head.weight"
    assert shift_layer("encoder.block.1.layer.0.x", "encoder.block", 1) == "encoder.block.2.layer.0.x"


def test_depths_run_from_0_to_1_in_each_stack() -> None:
    layout = Layout([f"encoder.block.{i}.w" for i in range(5)] + [f"decoder.block.{i}.w" for i in range(2)] + ["x"])
    assert layout.stacks == {"encoder.block": 5, "decoder.block": 2} and layout.layers == 5
    assert [layout.depth(f"encoder.block.{i}.w") for i in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [layout.depth(f"decoder.block.{i}.w") for i in range(2)] == [0.0, 1.0]
    assert layout.depth("x") == 0.0
    assert Layout(["h.0.w"]).depth("h.0.w") == 1.0


@pytest.mark.parametrize("kind", list(BUILDERS))
@pytest.mark.parametrize("outer", ["joint", "each", "base"])
@pytest.mark.parametrize("components", [(), ("attention",), ("norms", "attention", "mlp")], ids=str)
def test_groups_partition_the_tensors(kind: str, outer: str, components: tuple[str, ...]) -> None:
    layout = Layout(NAMES[kind])
    groups = layout.groups(components, outer)
    found = members(layout, groups)
    assert sorted(name for names in found.values() for name in names) == sorted(layout.names)
    assert all(found.values()), "an empty group would be a dead coordinate"
    for group in groups:
        assert all((layer_of(name) is not None) == group.layered for name in found[group.name])
        assert group.frozen == (outer == "base" and not group.layered)


@pytest.mark.parametrize("kind", list(BUILDERS))
def test_components_hold_what_they_say(kind: str) -> None:
    layout = Layout(NAMES[kind])
    found = members(layout, layout.groups(("norms", "attention", "mlp"), "each"))
    assert all("norm" in name or "ln_" in name for name in found["norms"])
    assert not any("norm" in name or "ln_" in name for name in (*found["attention"], *found["mlp"]))
    assert all("attn" in name or "Attention" in name for name in found["attention"])
    assert "rest" not in found
    assert set(found) >= {"embeddings", "final_norm", "norms", "attention", "mlp"}


def test_encoder_decoder_components() -> None:
    layout = Layout(NAMES["t5"])
    found = members(layout, layout.groups(("cross_attention", "encoder", "decoder"), "joint"))
    assert all("EncDecAttention" in name for name in found["cross_attention"])
    assert all(name.startswith("encoder.block") for name in found["encoder"])
    assert all(name.startswith("decoder.block") for name in found["decoder"])


def test_components_of_ones_own() -> None:
    layout = Layout(NAMES["llama"])
    groups = layout.groups({"queries": ["q_proj"], "out": "o_proj"}, "joint")
    assert [group.name for group in groups] == ["outer", "queries", "out", "rest"]
    assert len(members(layout, groups)["queries"]) == len(members(layout, groups)["out"]) == layout.layers


def test_a_misspelt_component_is_refused() -> None:
    layout = Layout(NAMES["llama"])
    with pytest.raises(ConfigError, match=r"^space\.components: unknown \['atention'\]; choose of .*attention"):
        layout.groups(("atention",), "joint")
    with pytest.raises(ConfigError, match=r"^space\.components: no tensor's name contains any of \['qproj'\]"):
        layout.groups({"queries": ["qproj"]}, "joint")
    with pytest.raises(ConfigError, match=r"^space\.components: no tensor"):
        layout.groups(("cross_attention",), "joint")
    with pytest.raises(ConfigError, match=r"^space\.outer=bas: choose joint .* each .* base"):
        layout.groups((), "bas")


def test_an_outer_name_inside_a_layers_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^norm\.weight: "):
        Layout(["norm.weight", "layers.0.input_layernorm.weight"]).groups((), "joint")


def test_a_model_without_layers_or_without_outer_tensors_is_one_group() -> None:
    assert [g.name for g in Layout(["a", "b"]).groups((), "joint")] == ["outer"]
    assert [g.name for g in Layout(["h.0.a", "h.1.a"]).groups((), "joint")] == ["layers"]


def test_spellings_are_the_files_and_the_models() -> None:
    layout = Layout(["h.0.w"], {"h.0.w": "transformer.h.0.w"})
    assert layout.names_of("h.0.w") == ("h.0.w", "transformer.h.0.w")
    assert layout.names_of("else") == ("else",)


MIXTURE = [
    *("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"),
    *(f"model.layers.{i}.mlp.gate.weight" for i in range(2)),
    *(f"model.layers.{i}.mlp.experts.{j}.gate_proj.weight" for i in range(2) for j in range(3)),
    *(f"model.layers.{i}.mlp.shared_expert.up_proj.weight" for i in range(2)),
    *(f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2)),
]


def test_kept_routers_are_a_frozen_group_before_all_components() -> None:
    layout = Layout(MIXTURE)
    groups = layout.groups(("experts", "shared_experts"), "joint", router="keep")
    found = members(layout, groups)
    assert found["router"] == [f"model.layers.{i}.mlp.gate.weight" for i in range(2)]
    assert [group.name for group in groups if group.frozen] == ["router"]
    assert sorted(name for names in found.values() for name in names) == sorted(MIXTURE)
    assert members(layout, layout.groups(("router", "experts"), "joint"))["router"] == found["router"]


def test_routers_that_are_not_there_and_misspelt_values_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^space\.router=keep: this model has no routers"):
        Layout(NAMES["llama"]).groups((), "joint", router="keep")
    with pytest.raises(ConfigError, match=r"^space\.router=kep: choose merge .* keep"):
        Layout(MIXTURE).groups((), "joint", router="kep")
