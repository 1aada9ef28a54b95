"""The search space: a contract over every method × schedule × components, and the refusals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from evomerge import methods
from evomerge.errors import ConfigError
from evomerge.merging.digests import fingerprint
from evomerge.merging.materializer import Materializer
from evomerge.merging.tensor_plan import TensorPlan, plan
from evomerge.models.family import Family
from evomerge.models.groups import Layout, layer_of
from evomerge.recipes import parse_recipe
from evomerge.recipes.document import to_document
from evomerge.recipes.recipe import ModelRef, Recipe, Source, recipe_of_models
from evomerge.space.search_space import SearchSpace
from evomerge.space.space import Space
from tests.families import BUILDERS, Folders, save_family

LAYERS = 4
BASE = ModelRef("org/base")
EXPERTS = {"math": ModelRef("org/math"), "code": ModelRef("org/code"), "chat": ModelRef("org/chat")}
PARTS = ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight")
NAMES = (
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.{part}" for layer in range(LAYERS) for part in PARTS),
    "model.norm.weight",
    "lm_head.weight",
)
LAYOUT = Layout(NAMES)
SCHEDULES: list[Any] = ["all", "each", {"blocks": 2}, {"blocks": 3}, {"knots": 2}, {"knots": 3}]
COMPONENTS: list[Any] = [(), ("norms", "attention"), {"queries": ["q_proj"]}]

every_method = pytest.mark.parametrize("method", methods.names())
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
every_components = pytest.mark.parametrize("components", COMPONENTS, ids=str)


def make(
    method: str = "task_arithmetic",
    count: int = 3,
    layout: Layout = LAYOUT,
    touched: Sequence[frozenset[str]] | None = None,
    **changes: Any,
) -> Space:
    experts = dict(list(EXPERTS.items())[: min(count, methods.load(method).EXPERTS[1])])
    everything = [frozenset(layout.names)] * len(experts)
    return Space(method=method, base=BASE, experts=experts, layout=layout, touched=touched or everything, **changes)


def axis_names(space: SearchSpace) -> list[str]:
    return [coordinate.name for coordinate in space.coordinates()]


def points(space: Space, count: int = 5) -> list[np.ndarray]:
    return list(np.random.default_rng(space.dimensions).random((count, space.dimensions)))


def values(merged: Recipe, layout: Layout = LAYOUT) -> list[TensorPlan]:
    return plan(merged, layout)


def weights(merged: Recipe, name: str) -> list[float]:
    entry = next(entry for entry in plan(merged, LAYOUT) if entry.name == name)
    return [float(expert.values["weight"]) for expert in entry.experts]


@every_method
@every_schedule
@every_components
def test_any_point_is_a_valid_recipe(method: str, schedule: Any, components: Any) -> None:
    space = make(method, schedule=schedule, components=components)
    assert len(axis_names(space)) == len(set(axis_names(space))) == space.dimensions
    for vector in (*points(space), np.zeros(space.dimensions), np.ones(space.dimensions)):
        merged = space.decode(vector)
        assert parse_recipe(to_document(merged)).settings == merged.settings
        assert len(values(merged)) == len(NAMES)


@every_method
@every_schedule
@every_components
def test_every_coordinate_is_live(method: str, schedule: Any, components: Any) -> None:
    space = make(method, schedule=schedule, components=components)
    vector = points(space, 1)[0] * 0.8 + 0.1
    before = values(space.decode(vector))
    for place in range(space.dimensions):
        moved = vector.copy()
        moved[place] += 0.05
        assert values(space.decode(moved)) != before, axis_names(space)[place]


@every_method
@every_schedule
def test_no_coordinate_is_missing(method: str, schedule: Any) -> None:
    """Each tensor's genes all move when the whole vector does."""
    space = make(method, schedule=schedule, components=("attention",))
    low, high = (
        values(space.decode(np.full(space.dimensions, 0.2))),
        values(space.decode(np.full(space.dimensions, 0.7))),
    )
    searched = {axes.gene.name for axes in space.axes}
    for before, after in zip(low, high, strict=True):
        for old, new in zip(
            (before.shared, *(e.values for e in before.experts)),
            (after.shared, *(e.values for e in after.experts)),
            strict=True,
        ):
            assert all(old[key] != new[key] for key in searched & set(old))


@every_method
@every_schedule
def test_different_points_are_different_recipes(method: str, schedule: Any) -> None:
    space = make(method, schedule=schedule, components=("attention",))
    vectors = points(space, 30)
    vectors += [1 - vector for vector in vectors] + [np.roll(vector, 1) for vector in vectors if space.dimensions > 1]
    assert len({space.decode(vector).key() for vector in vectors}) == len(vectors)


@every_method
@every_schedule
def test_seeds_encode_and_decode(method: str, schedule: Any) -> None:
    space = make(method, schedule=schedule, components=("attention",))
    for label, vector in space.seed_points().items():
        assert vector.shape == (space.dimensions,) and (vector >= 0).all() and (vector <= 1).all()
        merged = space.decode(vector)
        if label in EXPERTS and "weight" in methods.load(method).PER_EXPERT:
            wanted = [float(label == other) for other in space.labels]
            assert all(weights(merged, name) == pytest.approx(wanted, abs=1e-6) for name in NAMES)
    default = {gene.name: gene.default for gene in methods.load(method).GENES}
    entry = values(space.decode(space.seed_points()["default"]))[0]
    for key, value in {**entry.shared, **entry.experts[0].values}.items():
        if key in default and not (key == "weight" and methods.normalizes(methods.load(method), {})):
            assert value == pytest.approx(default[key], abs=1e-6)


@every_method
def test_seeds_of_weighted_methods_name_every_baseline(method: str) -> None:
    if "weight" not in methods.load(method).PER_EXPERT:
        pytest.skip("the method has no weights")
    space = make(method)
    genes = {gene.name: gene for gene in methods.load(method).GENES}
    masked = "density" in genes and genes["density"].high < 1.0  # it drops something of any expert
    normal = methods.normalizes(methods.load(method), {})
    wanted = {"default", "uniform", *(() if normal else ("base",)), *(() if masked else space.labels)}
    assert set(space.seed_points()) == wanted
    count = len(space.labels)
    assert weights(space.decode(space.seed_points()["uniform"]), NAMES[0]) == pytest.approx(
        [1 / count] * count, abs=1e-6
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return save_family("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def materializer(folders: Folders) -> Materializer:
    return Materializer(Family(folders.base, folders.experts))


def real(materializer: Materializer, method: str, **changes: Any) -> Space:
    """A space over a family on disk."""
    family = materializer.family
    experts = dict(list(zip(EXPERTS, family.experts, strict=True))[: methods.load(method).EXPERTS[1]])
    touched = [family.touched(ref) for ref in experts.values()]
    return Space(method=method, base=family.ref, experts=experts, layout=family.layout, touched=touched, **changes)


def bits(materializer: Materializer, merged: Recipe) -> str:
    return fingerprint(materializer.tensors(merged))


def stored(materializer: Materializer, ref: ModelRef) -> str:
    whole = recipe_of_models("task_arithmetic", materializer.family.ref, (Source(ref, {"weight": 1.0}),), {})
    return bits(materializer, whole)


@pytest.mark.parametrize("method", [name for name in methods.names() if "weight" in methods.load(name).PER_EXPERT])
@pytest.mark.parametrize("setting", ["as it is", "the other normalisation", "fixed", "narrowed", "unweighted signs"])
def test_base_and_expert_seeds_are_what_they_say(
    method: str, setting: str, folders: Folders, materializer: Materializer
) -> None:
    """To the bit, where they exist; what a setting makes impossible is not among the seeds."""
    if method.startswith("core_"):
        pytest.skip("merges adapters only")
    module, changes = methods.load(method), {}
    if setting == "the other normalisation" and "normalize" in module.SHARED:
        changes["settings"] = {"normalize": not module.SHARED["normalize"]}
    if setting == "unweighted signs" and "sign" in module.OPTIONS:
        changes["options"] = {"sign": "unweighted"}
    shrunk = next((gene for gene in module.GENES if gene.name in ("density", "lambda")), None)
    if setting == "fixed" and shrunk:
        changes["genes"] = {shrunk.name: 0.7}
    if setting == "narrowed" and shrunk:
        changes["genes"] = {shrunk.name: {"low": 0.3, "high": 0.7}}
    if method == "task_arithmetic" and "genes" in changes:  # its λ is no gene
        changes = {"settings": {"lambda": 0.7}}
    space = real(materializer, method, **changes)
    seeds = space.seed_points()
    assert "uniform" in seeds
    for label, ref in {"base": folders.base, **space_experts(space)}.items():
        if label in seeds:
            assert bits(materializer, space.decode(seeds[label])) == stored(materializer, ref), label
    impossible = setting in ("fixed", "narrowed") and shrunk is not None
    if impossible or (setting == "unweighted signs" and changes):
        assert not set(seeds) & set(EXPERTS)


def space_experts(space: Space) -> dict[str, ModelRef]:
    return dict(zip(space.labels, space.experts, strict=True))


@pytest.mark.parametrize("method", ["dare_linear", "ties", "geometric_median"])
def test_under_a_fixed_weight_only_the_default_is_left(method: str) -> None:
    assert set(make(method, genes={"weight": 0.4}).seed_points()) == {"default"}


def test_uniform_is_the_mean_for_the_methods_that_add_up(folders: Folders, materializer: Materializer) -> None:
    experts = [load_file(Path(ref.path) / "model.safetensors") for ref in folders.experts]
    for method in ("linear", "task_arithmetic", "dare_linear", "breadcrumbs"):
        space = real(materializer, method)
        for name, tensor in materializer.tensors(space.decode(space.seed_points()["uniform"])):
            assert torch.allclose(tensor, sum(expert[name] for expert in experts) / 3, atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.sampled(11)
@every_method
@pytest.mark.parametrize("outer", ["joint", "base"])
def test_corners_and_random_points_merge(method: str, outer: str, materializer: Materializer) -> None:
    """A point of the cube is more than a valid recipe: it is a merge. With `outer=base` the outer tensors stay."""
    if method.startswith("core_"):
        pytest.skip("merges adapters only")
    try:
        space = real(materializer, method, outer=outer)
    except ConfigError as error:
        assert outer == "base" and str(error).startswith(f"space.outer=base: {method} ")
        return
    own = {name: materializer.family.base.checkpoint.tensor(name) for name in materializer.family.base.parameter}
    for vector in (*points(space, 2), np.zeros(space.dimensions), np.ones(space.dimensions)):
        for name, tensor in materializer.tensors(space.decode(vector)):
            if outer == "base" and layer_of(name) is None:
                assert torch.equal(tensor, own[name]), name


@every_method
@pytest.mark.parametrize("kind", list(BUILDERS))
def test_groups_of_real_architectures_get_their_values(method: str, kind: str) -> None:
    layout = Layout([name for name, _ in BUILDERS[kind]().named_parameters()])
    space = make(method, layout=layout, schedule="each", components=("norms", "attention", "mlp"), outer="each")
    before = values(space.decode(np.full(space.dimensions, 0.3)), layout)
    assert [entry.name for entry in before] == list(layout.names)
    moved = {axes.group.name: np.full(space.dimensions, 0.3) for axes in space.axes}
    for axes in space.axes:
        moved[axes.group.name][axes.start : axes.start + axes.size] = 0.6
    changes = [
        {new.name for old, new in zip(before, values(space.decode(vector), layout), strict=True) if old != new}
        for vector in moved.values()
    ]
    assert sum(map(len, changes)) == len(layout.names) and set().union(*changes) == set(layout.names)


def test_dimensions_count_groups_points_and_experts() -> None:
    assert make().dimensions == 2 * 3
    assert make(schedule="each").dimensions == 3 + LAYERS * 3
    assert make(schedule={"knots": 3}, components=("attention",)).dimensions == 3 + 2 * 3 * 3
    assert make(outer="each").dimensions == 3 * 3 + 3
    assert make(outer="base").dimensions == 3
    assert make("linear").dimensions == 2 * 2  # a simplex of three weights has two dimensions
    assert make("slerp").dimensions == 2
    assert make("ties").dimensions == 2 * (2 + 3 + 1)
    assert make("dare_ties").dimensions == 2 * (3 + 3)  # λ would only rescale weights that are not normalised
    assert make("dare_ties", settings={"normalize": True}).dimensions == 2 * (2 + 3 + 1)


@pytest.mark.parametrize(
    ("schedule", "wanted"), [({"blocks": 2}, [0.3, 0.3, 0.9, 0.9]), ({"knots": 2}, [0.3, 0.5, 0.7, 0.9])], ids=str
)
def test_schedules_reach_the_layers(schedule: Any, wanted: list[float]) -> None:
    space = make(count=1, schedule=schedule, outer="base")
    merged = space.decode(np.array([0.2, 0.6]))
    for layer in range(LAYERS):
        assert weights(merged, f"model.layers.{layer}.{PARTS[0]}") == pytest.approx([wanted[layer]])
    assert weights(merged, "lm_head.weight") == [0.0]


@every_method
def test_frozen_outer_tensors_have_the_values_that_leave_the_base(method: str) -> None:
    module = methods.load(method)
    neutral = {gene.name: gene.base for gene in module.GENES if gene.base is not None}
    if methods.normalizes(module, {}):  # no weight leaves the base then
        neutral = {name: value for name, value in neutral.items() if name != "weight"}
    if not neutral:
        with pytest.raises(ConfigError, match=rf"^space\.outer=base: {method} (normalises its weights|has no value)"):
            make(method, outer="base")
        return
    space = make(method, outer="base")
    for vector in points(space):
        for entry in values(space.decode(vector)):
            if entry.name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
                for key, value in neutral.items():
                    found = {**entry.shared, **entry.experts[0].values}
                    assert found[key] == value


def test_a_method_that_weighs_its_base_cannot_leave_it_unlisted() -> None:
    """θ₀ with weight 0 and nothing else is no model at all."""
    with pytest.raises(ConfigError, match=r"^space\.outer=base: linear normalises its weights"):
        make("linear", outer="base", settings={"normalize": False})


@pytest.mark.parametrize("method", ["nuslerp", "multislerp", "karcher", "geometric_median", "linear", "ties"])
def test_relative_weights_count_even_where_an_expert_is_the_base(method: str) -> None:
    """A model that equals the base holds the others back, so it keeps its share there."""
    experts = dict(list(EXPERTS.items())[: min(3, methods.load(method).EXPERTS[1])])
    touched = [frozenset(NAMES), *[ATTENTION] * (len(experts) - 1)]
    space = make(method, touched=touched, components=("attention",))
    assert len([name for name in axis_names(space) if name.startswith("weight.")]) == 3 * (len(experts) - 1)
    assert all(weight > 0 for weight in weights(space.decode(space.seed_points()["uniform"]), NAMES[0]))


def test_frozen_outer_tensors_stay_the_bases_under_a_fixed_weight() -> None:
    space = make("dare_linear", outer="base", genes={"weight": 0.3})
    assert weights(space.decode(points(space)[0]), "lm_head.weight") == [0.0, 0.0, 0.0]


ATTENTION = frozenset(name for name in NAMES if "self_attn" in name)


def test_an_adapter_has_no_axis_where_it_changes_nothing() -> None:
    everything = frozenset(NAMES)
    space = make(touched=[everything, ATTENTION, ATTENTION], components=("attention",))
    assert axis_names(space) == [
        "weight.math.outer",
        *(f"weight.{label}.attention" for label in EXPERTS),
        "weight.math.rest",
    ]
    merged = space.decode(np.full(space.dimensions, 0.5))
    assert weights(merged, NAMES[0]) == [0.75, 0.0, 0.0]
    assert weights(merged, f"model.layers.2.{PARTS[0]}") == [0.75] * 3


def test_no_density_axis_where_an_adapter_changes_nothing() -> None:
    space = make("ties", touched=[frozenset(NAMES), ATTENTION, ATTENTION], components=("attention",))
    assert "density.code.rest" not in axis_names(space)


def test_one_expert_under_normalised_weights_has_all_of_them() -> None:
    space = make("ties", count=1)
    assert weights(space.decode(np.full(space.dimensions, 0.5)), NAMES[0]) == [1.0]


def test_an_expert_outside_every_searched_group_has_weight_zero() -> None:
    outside = frozenset({"model.embed_tokens.weight"})
    space = make(touched=[frozenset(NAMES), frozenset(NAMES), outside], outer="base")
    assert weights(space.decode(points(space)[0]), NAMES[0])[2] == 0.0


def test_every_coordinate_of_a_shallower_stack_is_live() -> None:
    names = [f"encoder.block.{i}.w" for i in range(2)] + [f"decoder.block.{i}.w" for i in range(5)]
    layout = Layout(names)
    space = make(layout=layout, schedule="each", components=("encoder", "decoder"))
    vector = np.full(space.dimensions, 0.5)
    before = values(space.decode(vector), layout)
    for place in range(space.dimensions):
        moved = vector.copy()
        moved[place] = 0.6
        assert values(space.decode(moved), layout) != before, axis_names(space)[place]


def test_a_shorter_stack_is_interpolated() -> None:
    layout = Layout([f"encoder.block.{i}.w" for i in range(5)] + [f"decoder.block.{i}.w" for i in range(2)])
    space = make(count=1, layout=layout, schedule="each")
    merged = space.decode(np.linspace(0.0, 1.0, 5))
    found = {entry.name: entry.experts[0].values["weight"] for entry in values(merged, layout)}
    assert found["decoder.block.0.w"] == 0.0 and found["decoder.block.1.w"] == 1.5
    assert found["encoder.block.2.w"] == 0.75


def test_genes_are_narrowed_fixed_and_scheduled() -> None:
    genes: Mapping[str, Any] = {"weight": {"low": 0.2, "high": 0.6, "schedule": "each"}, "density": 0.5}
    space = make("dare_linear", genes=genes)
    assert space.dimensions == 3 * (1 + LAYERS)
    low, high = space.decode(np.zeros(space.dimensions)), space.decode(np.ones(space.dimensions))
    assert weights(low, NAMES[1]) == [0.2] * 3 and weights(high, NAMES[1]) == [0.6] * 3
    assert {expert.values["density"] for entry in values(high) for expert in entry.experts} == {0.5}
    fixed = make("dare_linear", genes={"density": {"value": 0.25}})
    assert {e.values["density"] for entry in values(fixed.decode(points(fixed)[0])) for e in entry.experts} == {0.25}
    assert "base" not in space.seed_points() and "math" not in space.seed_points()  # out of the narrowed range


def test_points_outside_the_cube_are_its_faces() -> None:
    space = make()
    assert space.decode(np.full(space.dimensions, 1.7)) == space.decode(np.ones(space.dimensions))
    with pytest.raises(ValueError, match="shape"):
        space.decode(np.zeros(space.dimensions + 1))


def test_decoded_numbers_are_short() -> None:
    space = make("linear", schedule="each")
    for expert in space.decode(points(space)[0]).slices[0].sources:
        for rule in expert.settings["weight"]:  # type: ignore[union-attr]
            for number in rule.value if isinstance(rule.value, tuple) else (rule.value,):
                assert number == round(number, 6)


def test_slerp_of_two_experts_has_no_base() -> None:
    experts = dict(list(EXPERTS.items())[:2])
    space = Space(method="slerp", base=BASE, experts=experts, layout=LAYOUT, touched=[frozenset(NAMES)] * 2)
    merged = space.decode(np.array([0.2, 0.8]))
    assert merged.base == EXPERTS["math"] and [source.model for source in merged.slices[0].sources] == [EXPERTS["code"]]


REFUSED = [
    ({"genes": {"wieght": {}}}, r"^space\.genes: wieght is not a gene of task_arithmetic \(did you mean 'weight'\?\)"),
    ({"genes": {"lambda": {}}}, r"^space\.genes: lambda is not a gene of task_arithmetic"),
    ({"genes": {"weight": {"lo": 0}}}, r"^space\.genes\.weight\.lo: unknown key \(did you mean 'low'\?\)"),
    ({"genes": {"weight": {"low": 2.0}}}, r"^space\.genes\.weight: low 2\.0 must be below high 1\.5"),
    ({"genes": {"weight": 0.3}}, r"^space: nothing is left to search"),
    ({"genes": {"weight": True}}, r"^space\.genes\.weight"),
    ({"schedule": {"knots": 9}}, r"^space\.schedule=.*n ≤ 4 layers"),
    ({"genes": {"weight": {"schedule": "al"}}}, r"schedule=al: choose all"),
    ({"components": ("atention",)}, r"^space\.components: unknown"),
    ({"outer": "join"}, r"^space\.outer=join"),
    ({"settings": {"normalise": True}}, r"^method\.settings: .*'normalise' \(did you mean 'normalize'\?\)"),
    ({"options": {"trim": "tensor"}}, r"no option 'trim'"),
    ({"method": "tie"}, r"'tie' is not known \(did you mean 'ties'\?\)"),
    ({"method": "ties", "options": {"trim": "modell"}}, r"option trim=modell is not one of tensor, model"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=str)
def test_refusals_name_the_key_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Space(
            **{"method": "task_arithmetic", "base": BASE, "experts": EXPERTS, "layout": LAYOUT}
            | {"touched": [frozenset(NAMES)] * 3}
            | changes
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["low", "high", "default", "value"])
def test_a_range_that_is_no_number_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^space\.genes\.weight\.{key}"):
        make(genes={"weight": {key: "much"}})


def test_a_default_outside_its_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^space\.genes\.weight.*default"):
        make(genes={"weight": {"default": 7.0}})


@pytest.mark.parametrize("count", [0, 3])
def test_slerp_takes_one_expert_or_two(count: int) -> None:
    experts = dict(list(EXPERTS.items())[:count])
    with pytest.raises(ConfigError, match=r"^method slerp merges the base with one expert"):
        Space(method="slerp", base=BASE, experts=experts, layout=LAYOUT, touched=[frozenset(NAMES)] * count)


@pytest.mark.parametrize(
    ("method", "count", "takes"), [("model_stock", 1, "at least 2"), ("nuslerp", 3, "at most 2"), ("nuslerp", 1, "at")]
)
def test_the_number_of_experts_that_a_method_takes(method: str, count: int, takes: str) -> None:
    experts = dict(list(EXPERTS.items())[:count])
    with pytest.raises(ConfigError, match=rf"^method {method} merges {takes}.* experts; got {count}$"):
        Space(method=method, base=BASE, experts=experts, layout=LAYOUT, touched=[frozenset(NAMES)] * count)


@pytest.mark.parametrize("method", ["arcee_fusion", "emr_elect", "geometric_median", "magmax", "model_stock"])
def test_lambda_is_a_gene_where_it_is_no_scale_of_weights(method: str) -> None:
    assert any(axes.gene.name == "lambda" for axes in make(method).axes)


def test_normalised_weights_have_no_range_to_narrow() -> None:
    with pytest.raises(ConfigError, match=r"space\.genes\.weight\.low: ties normalises its weights"):
        make("ties", genes={"weight": {"low": 0.3}})


def test_a_setting_fixes_its_gene() -> None:
    fixed = make("ties", settings={"lambda": 0.5})
    assert all(axes.gene.name != "lambda" for axes in fixed.axes)
    assert fixed.decode(np.full(fixed.dimensions, 0.5)).settings["lambda"] == 0.5
    with pytest.raises(ConfigError, match="lambda: set it in method.settings or in space.genes, not in both"):
        make("ties", settings={"lambda": 0.5}, genes={"lambda": {"low": 0.1}})
