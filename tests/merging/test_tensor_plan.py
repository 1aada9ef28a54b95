"""Recipes spelled out: gradients, filters, precedence and slices, on names alone."""

from collections.abc import Mapping

import pytest
import torch

from evomerge.errors import ConfigError
from evomerge.kernels import LinComb, Sources
from evomerge.merging.tensor_plan import TensorPlan, base_layers, output_layers, plan
from evomerge.methods import Setup, load
from evomerge.models.groups import Layout
from evomerge.recipes.recipe import FilteredValue, ModelRef, Recipe, Setting, Slice, Source, recipe_of_models

LAYERS = 4
BASE, ONE, TWO = ModelRef("org/base"), ModelRef("org/one"), ModelRef("org/two")
LAYOUT = Layout(
    ["embed_tokens.weight", *(f"layers.{i}.{part}" for i in range(LAYERS) for part in ("attn.w", "mlp.w")), "norm.w"]
)


def weight(setting: Setting) -> dict[str, Setting]:
    return {"weight": setting}


def models(setting: Setting, method: str = "task_arithmetic", **settings: Setting) -> Recipe:
    return recipe_of_models(method, BASE, (Source(ONE, weight(setting)),), settings)


def sliced(*parts: Slice, method: str = "task_arithmetic", settings: Mapping[str, Setting] | None = None) -> Recipe:
    return Recipe(method, BASE, parts, settings or {})


def part(first: int, last: int, expert_first: int | None = None, setting: Setting = 0.5) -> Slice:
    shift = first if expert_first is None else expert_first
    own = Source(ONE, weight(setting), (shift, shift + last - first))
    return Slice((Source(BASE, {}, (first, last)), own))


def planned(recipe: Recipe) -> dict[str, TensorPlan]:
    entries = plan(recipe, LAYOUT)
    assert len({entry.name for entry in entries}) == len(entries)
    return {entry.name: entry for entry in entries}


def weights(recipe: Recipe) -> dict[str, float]:
    return {name: float(entry.experts[0].values["weight"]) for name, entry in planned(recipe).items()}


def test_a_scalar_is_for_every_tensor() -> None:
    assert set(weights(models(0.3)).values()) == {0.3}
    assert set(weights(models(0.3))) == set(LAYOUT.names)


def test_a_gradient_runs_over_the_layers_and_starts_at_the_outer_tensors() -> None:
    found = weights(models((0.0, 0.9)))
    assert [found[f"layers.{i}.mlp.w"] for i in range(LAYERS)] == pytest.approx([0.0, 0.3, 0.6, 0.9])
    assert found["embed_tokens.weight"] == found["norm.w"] == 0.0


def test_the_first_rule_that_matches_wins() -> None:
    found = weights(
        models((FilteredValue("layers.1.", 0.1), FilteredValue("attn", (0.0, 1.0)), FilteredValue(None, 0.7)))
    )
    assert found["layers.1.attn.w"] == found["layers.1.mlp.w"] == 0.1
    assert found["layers.3.attn.w"] == 1.0 and found["layers.3.mlp.w"] == found["norm.w"] == 0.7


def test_precedence_is_source_slice_recipe_default() -> None:
    own = Source(ONE, weight((FilteredValue("attn", 0.1),)))
    recipe = Recipe(
        "ties", BASE, (Slice((own,), weight((FilteredValue("mlp", 0.2),))),), {"weight": 0.3, "density": 0.4}
    )
    found = planned(recipe)
    assert [found[name].experts[0].values["weight"] for name in ("layers.0.attn.w", "layers.0.mlp.w", "norm.w")] == [
        0.1,
        0.2,
        0.3,
    ]
    assert found["norm.w"].experts[0].values["density"] == 0.4
    assert found["norm.w"].shared["lambda"] == 1.0 and found["norm.w"].shared["normalize"] is True


def test_a_value_that_is_missing_names_the_model_the_parameter_and_the_tensor() -> None:
    with pytest.raises(ConfigError, match=r"^org/one: parameter weight has no value for embed_tokens\.weight; add"):
        plan(models((FilteredValue("layers", 0.1),)), LAYOUT)
    with pytest.raises(ConfigError, match=r"^org/base: parameter t has no value"):
        plan(recipe_of_models("slerp", BASE, (Source(ONE),), {}), LAYOUT)


def test_a_shared_parameter_is_a_gradient_too() -> None:
    found = planned(recipe_of_models("slerp", BASE, (Source(ONE),), {"t": (0.0, 0.3)}))
    assert [found[f"layers.{i}.attn.w"].shared["t"] for i in range(LAYERS)] == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_a_listed_base_is_no_expert_and_has_its_own_weight() -> None:
    recipe = recipe_of_models("linear", BASE, (Source(BASE, weight(0.25)), Source(ONE, weight(0.75))), {})
    entry = planned(recipe)["norm.w"]
    assert entry.base.values == {"weight": 0.25} and [e.model for e in entry.experts] == [ONE]
    unlisted = planned(recipe_of_models("linear", BASE, (Source(ONE, weight(0.75)),), {}))["norm.w"]
    assert unlisted.base.values == {"weight": 0.0}


def test_without_a_base_the_first_source_is_it() -> None:
    recipe = recipe_of_models("linear", None, (Source(ONE, weight(0.5)), Source(TWO, weight(0.5))), {})
    entry = planned(recipe)["norm.w"]
    assert (
        entry.base.model == ONE and entry.base.values == {"weight": 0.5} and [e.model for e in entry.experts] == [TWO]
    )


def test_slices_stack_and_renumber() -> None:
    recipe = sliced(part(0, 2), part(1, 4))
    found = planned(recipe)
    assert output_layers(recipe) == 5 and base_layers(recipe) == [0, 1, 1, 2, 3]
    assert set(found) == {"embed_tokens.weight", "norm.w"} | {
        f"layers.{i}.{p}" for i in range(5) for p in ("attn.w", "mlp.w")
    }
    assert [found[f"layers.{i}.mlp.w"].base.name for i in range(5)] == [f"layers.{i}.mlp.w" for i in (0, 1, 1, 2, 3)]
    assert found["layers.2.mlp.w"].experts[0].name == "layers.1.mlp.w"


def test_sources_of_a_slice_may_be_shifted() -> None:
    found = planned(sliced(part(0, 2, expert_first=2)))
    assert found["layers.1.attn.w"].base.name == "layers.1.attn.w"
    assert found["layers.1.attn.w"].experts[0].name == "layers.3.attn.w"


def test_a_gradient_runs_over_each_slice() -> None:
    found = weights(sliced(part(0, 3, setting=(0.0, 1.0)), part(2, 4, setting=(5.0, 6.0))))
    assert [found[f"layers.{i}.mlp.w"] for i in range(5)] == [0.0, 0.5, 1.0, 5.0, 6.0]


def test_a_slice_of_one_layer_is_at_the_gradients_end() -> None:
    assert weights(sliced(part(0, 1, setting=(0.0, 1.0))))["layers.0.mlp.w"] == 1.0


def test_outer_tensors_take_the_first_or_the_last_slice() -> None:
    found = weights(sliced(part(0, 2, setting=0.1), part(2, 4, setting=0.9)))
    assert found["embed_tokens.weight"] == 0.1 and found["norm.w"] == 0.9


def test_the_models_form_sets_no_number_of_layers() -> None:
    assert output_layers(models(0.5)) is None


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (sliced(part(2, 5)), r"layer_range \[2, 5\] of .*: the model has 4 layers, so give a part of \[0, 4\]"),
        (sliced(part(2, 2)), "layer_range: the end must be above the start"),
        (sliced(Slice((Source(BASE, {}, (0, 2)), Source(ONE, weight(1.0), (0, 3))))), "the same number of layers"),
    ],
    ids=["beyond", "empty", "unequal"],
)
def test_impossible_slices_are_refused(recipe: Recipe, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(recipe, LAYOUT)


def test_an_experts_range_beyond_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="layer_range"):
        plan(sliced(part(0, 2, expert_first=7)), LAYOUT)


def test_a_negative_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="layer_range"):
        plan(sliced(part(-1, 1)), LAYOUT)


def test_slices_need_a_single_stack() -> None:
    with pytest.raises(ConfigError, match="2 layer stacks; use the models form"):
        plan(sliced(part(0, 1)), Layout(["encoder.block.0.w", "decoder.block.0.w"]))


def test_an_experts_layer_of_another_kind_is_refused() -> None:
    mixed = Layout(["embed.weight", "layers.0.mamba.w", "layers.1.attn.w", "norm.w"])
    with pytest.raises(
        ConfigError, match=r"^layer_range: org/one has no layers\.1\.mamba\.w: that layer is of another"
    ):
        plan(sliced(part(0, 1, expert_first=1)), mixed)


def test_passthrough_copies_with_the_scale_that_its_filters_give() -> None:
    rules = (FilteredValue("layers.1.attn", 0.5), FilteredValue("mlp", 0.25))
    for base in (None, BASE, ONE):
        one = Source(ONE, {"scale": rules}, (1, 3))
        recipe = Recipe("passthrough", base, (Slice((one,)), Slice((Source(ONE, {}, (0, 1)),))))
        found = planned(recipe)
        scales = {name: method_scale(entry) for name, entry in found.items()}
        assert (
            scales["layers.0.attn.w"] == 0.5 and scales["layers.0.mlp.w"] == 0.25 and scales["layers.1.attn.w"] == 1.0
        )
        assert scales["layers.2.mlp.w"] == scales["norm.w"] == 1.0


def method_scale(entry: TensorPlan) -> float:
    """What the one source that is read is multiplied by."""
    found = load("passthrough").coefficients(
        Setup(Sources("x", torch.zeros(1), [None] * len(entry.experts))), entry.genes
    )
    assert isinstance(found, LinComb)
    (number,) = [weight for weight in (found.base, *found.experts) if weight]
    assert isinstance(number, float)
    return number
