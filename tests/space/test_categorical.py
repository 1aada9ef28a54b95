"""Method, schedule and expert subset as genes: every point is a merge, and what does not take part leaves no trace."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge import methods
from evomerge.errors import CandidateError, ConfigError
from evomerge.merging.digests import fingerprint
from evomerge.merging.materializer import Materializer
from evomerge.models.family import Family
from evomerge.optimizers import Coordinate
from evomerge.recipes import parse_recipe
from evomerge.recipes.document import to_document
from evomerge.recipes.recipe import ModelRef, Recipe
from evomerge.space.baselines import mandatory_baselines
from evomerge.space.categorical import ExpertSubset, MethodChoice, ScheduleChoice
from evomerge.space.search_space import SearchSpace
from evomerge.space.space import Space
from tests.conftest import SMALL, evomerge
from tests.families import Folders, save_family

THREE = ["task_arithmetic", "ties", "linear"]
ANY = [
    name
    for name in methods.names()
    if methods.load(name).EXPERTS[1] > 3 and not methods.banks_depend_on_experts(methods.load(name))
]
WEIGHTED = [name for name in ANY if "weight" in methods.load(name).PER_EXPERT]
LABELS = ("math", "code", "chat")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return save_family("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def materializer(folders: Folders) -> Materializer:
    return Materializer(Family(folders.base, folders.experts))


def experts_of(folders: Folders) -> dict[str, ModelRef]:
    return dict(zip(LABELS, folders.experts, strict=True))


def space_of(materializer: Materializer, method: str, labels: Sequence[str] = LABELS, **changes: Any) -> Space:
    family = materializer.family
    experts = {label: ref for label, ref in zip(LABELS, family.experts, strict=True) if label in labels}
    touched = [family.touched(ref) for ref in experts.values()]
    return Space(method=method, base=family.ref, experts=experts, layout=family.layout, touched=touched, **changes)


def choice(materializer: Materializer, names: Sequence[str] = THREE, **changes: Any) -> MethodChoice:
    return MethodChoice([space_of(materializer, name, **changes) for name in names])


def subset(materializer: Materializer, names: Sequence[str] = THREE, **changes: Any) -> ExpertSubset:
    inner = choice(materializer, names, **changes) if len(names) > 1 else space_of(materializer, names[0], **changes)
    return ExpertSubset(inner, LABELS)


def bits(materializer: Materializer, recipe: Recipe) -> str:
    return fingerprint(materializer.tensors(recipe))


def axis_names(space: SearchSpace) -> list[str]:
    return [coordinate.name for coordinate in space.coordinates()]


def with_part(space: ExpertSubset, part: Sequence[float], inner: np.ndarray) -> Recipe:
    return space.decode(np.concatenate([part, inner]))


def inner_points(dimensions: int) -> list[np.ndarray]:
    random = np.random.default_rng(dimensions).random((2, dimensions))
    return [*random, np.zeros(dimensions), np.ones(dimensions)]


# --- a choice of methods ---


def test_the_first_coordinate_chooses_by_equal_parts(materializer: Materializer) -> None:
    space, vector = choice(materializer), np.full(choice(materializer).dimensions, 0.5)
    edges = {0.0: 0, 0.333: 0, 1 / 3: 1, 0.5: 1, 0.666: 1, 2 / 3: 2, 0.999: 2, 1.0: 2, -3.0: 0, 7.0: 2}
    for value, place in edges.items():
        vector[0] = value
        assert space.decode(vector).method == THREE[place], value


def test_each_method_has_coordinates_of_its_own(materializer: Materializer) -> None:
    space = choice(materializer, schedule="each")
    names = axis_names(space)
    assert len(names) == len(set(names)) == space.dimensions
    assert names[0] == "method" and space.method == "task_arithmetic or ties or linear"
    vector = np.full(space.dimensions, 0.4)
    for place, method in enumerate(THREE):
        vector[0] = (place + 0.5) / 3
        before = space.decode(vector)
        for index, name in list(enumerate(names))[1:]:
            moved = vector.copy()
            moved[index] = 0.6
            assert (space.decode(moved) != before) == name.startswith(f"{method}."), name


def test_every_corner_and_random_points_of_a_choice_merge(materializer: Materializer) -> None:
    space = choice(materializer, ["ties", "lines", "geometric_median", "multislerp"])
    random = np.random.default_rng(0).random((8, space.dimensions))
    ends = [np.full(space.dimensions, end) for end in (0.0, 1.0)]
    for place, vector in enumerate([*random, *ends]):
        vector = vector.copy()
        vector[0] = place % 4 / 4 if place < 8 else vector[0]
        recipe = space.decode(vector)
        assert bits(materializer, recipe) == bits(materializer, parse_recipe(to_document(recipe)))


def test_seeds_of_a_choice_are_the_methods_own(materializer: Materializer) -> None:
    space = choice(materializer)
    own = {name: space_of(materializer, name) for name in THREE}
    wanted = {f"{name} {label}": one.decode(v) for name, one in own.items() for label, v in one.seed_points().items()}
    assert {label: space.decode(vector) for label, vector in space.seed_points().items()} == wanted
    assert [space.decode(vector).method for vector in space.example_points()] == THREE
    for vector in [*space.seed_points().values(), *space.example_points()]:
        assert vector.shape == (space.dimensions,) and vector.min() >= 0.0 and vector.max() <= 1.0


@pytest.mark.parametrize("make", [choice, subset])
def test_every_default_is_a_baseline_row(make: Any, materializer: Materializer, folders: Folders) -> None:
    rows = mandatory_baselines(make(materializer), folders.base, experts_of(folders))
    assert list(rows) == ["base", *LABELS, "uniform", *(f"default ({name})" for name in THREE)]
    for name in THREE:
        own = space_of(materializer, name)
        assert rows[f"default ({name})"] == own.decode(own.seed_points()["default"])
    assert rows["default (ties)"].slices[0].sources[0].settings["density"] == 0.2


def test_an_expert_must_not_bear_a_defaults_name(materializer: Materializer, folders: Folders) -> None:
    with pytest.raises(ConfigError, match=r"^experts\.default \(ties\): that name is a baseline's"):
        mandatory_baselines(choice(materializer), folders.base, {"default (ties)": folders.experts[0]})


# --- a choice of schedules ---

SCHEDULES = ("all", "blocks:2", "knots:3")


def schedules(materializer: Materializer, method: str = "task_arithmetic") -> ScheduleChoice:
    return ScheduleChoice({text: space_of(materializer, method, schedule=text) for text in SCHEDULES})


def test_each_schedule_has_coordinates_of_its_own(materializer: Materializer) -> None:
    space = schedules(materializer)
    assert space.coordinates()[0] == Coordinate("schedule", 3, ordered=False) and space.method == "task_arithmetic"
    random = np.random.default_rng(0).random((6, space.dimensions))
    for place, text in enumerate(SCHEDULES):
        own = space_of(materializer, "task_arithmetic", schedule=text)
        start = axis_names(space).index(f"{text}.{axis_names(own)[0]}")
        for vector in random:
            vector[0] = (place + 0.5) / 3
            assert space.decode(vector) == own.decode(vector[start : start + own.dimensions])


def test_what_is_the_same_in_every_schedule_is_one_baseline_and_one_seed(
    materializer: Materializer, folders: Folders
) -> None:
    space, own = schedules(materializer), space_of(materializer, "task_arithmetic")
    assert list(mandatory_baselines(space, folders.base, experts_of(folders))) == [
        "base",
        *LABELS,
        "uniform",
        "default",
    ]
    keys = {space.decode(vector).key() for vector in space.seed_points().values()}
    assert keys == {own.decode(vector).key() for vector in own.seed_points().values()}
    assert len(space.example_points()) == 1


def test_a_recipe_is_found_in_the_schedule_that_it_was_made_by(materializer: Materializer) -> None:
    space, vector = schedules(materializer), np.random.default_rng(1).random(schedules(materializer).dimensions)
    for place in range(3):
        vector[0] = (place + 0.5) / 3
        recipe = space.decode(vector)
        point, distance = space.nearest(recipe)
        assert space.decode(point) == recipe and distance < 1e-6


def test_methods_subsets_and_schedules_are_chosen_together(materializer: Materializer, folders: Folders) -> None:
    inner = MethodChoice([schedules(materializer, method) for method in ("task_arithmetic", "ties")])
    space = ExpertSubset(inner, LABELS)
    names = axis_names(space)
    assert len(set(names)) == space.dimensions and {"method", "ties.schedule", "takes_part.math"} <= set(names)
    assert list(space.default_points()) == ["default (task_arithmetic)", "default (ties)"]
    found = {space.decode(v).method for v in np.random.default_rng(2).random((20, space.dimensions))}
    assert found == {"task_arithmetic", "ties"}
    for vector in [*space.seed_points().values(), *np.random.default_rng(3).random((4, space.dimensions))]:
        assert bits(materializer, space.decode(vector))


CHOICES = ("space.schedule=[all, 'blocks:2']", "space.subset=true", "method=[task_arithmetic, breadcrumbs]")


@pytest.mark.slow
def test_a_run_over_all_choices_ends_and_repeats_for_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        said = evomerge("+experiment=quickstart", *SMALL, *CHOICES, cwd=tmp_path)
        assert said.code == 0, said
    counts = json.loads((tmp_path / "runs" / "quickstart" / "result.json").read_text())["counts"]
    assert counts["candidates"] > 20 and counts["failed"] == counts["items_scored_this_time"] == 0


@pytest.mark.parametrize("given", ["[]", "[all]", "[all, all]", "[all, blox:2]"])
def test_schedules_that_are_no_choice_are_one_line(given: str, tmp_path: Path) -> None:
    said = evomerge("check", "+experiment=quickstart", f"space.schedule={given}", cwd=tmp_path)
    assert "space.schedule=" in said.refused(2)


# --- a subset of the experts ---


def expected(part: Sequence[float], least: int) -> list[str]:
    order = sorted(range(3), key=lambda place: -part[place])
    count = max(least, sum(share >= 0.5 for share in part))
    return [LABELS[place] for place in sorted(order[:count])]


PARTS = [*product((0.0, 1.0), repeat=3), (0.49, 0.1, 0.2), (0.5, 0.5, 0.499), (0.3, 0.3, 0.3)]


@pytest.mark.sampled(7)
@pytest.mark.parametrize("method", ANY)
def test_who_does_not_take_part_leaves_no_trace(method: str, materializer: Materializer) -> None:
    """Every corner of the subset: the bytes are those of a merge that never heard of the others."""
    module = methods.load(method)
    space, least = subset(materializer, [method]), module.EXPERTS[0]
    assert axis_names(space)[:3] == [f"takes_part.{label}" for label in LABELS]
    assert len(set(axis_names(space))) == len(axis_names(space)) == space.dimensions
    for part in PARTS:
        kept = expected(part, least)
        assert kept, "somebody takes part"
        recipe = with_part(space, part, inner_points(space.dimensions - 3)[0])
        listed = [source.model for source in recipe.slices[0].sources]
        assert listed == [ref for label, ref in refs(materializer).items() if label in kept or method in WEIGHTED]
        alone = without(recipe, [ref for label, ref in refs(materializer).items() if label not in kept])
        if method == "consensus_ta" and len(kept) < 2:  # a consensus of two is its default
            with pytest.raises(CandidateError, match="k=2 of 1 experts"):
                bits(materializer, recipe)
        elif module.EXACTNESS != "distribution-only":  # masks are drawn by an expert's place
            assert bits(materializer, recipe) == bits(materializer, alone)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("method", WEIGHTED)
@pytest.mark.parametrize("absent", range(3))
def test_another_model_in_the_place_of_the_absent_changes_no_bit(
    method: str, absent: int, materializer: Materializer, tmp_path: Path
) -> None:
    part = [float(place != absent) for place in range(3)]
    others = save_family("llama", tmp_path, experts=4)
    space = subset(materializer, [method])
    recipe = with_part(space, part, inner_points(space.dimensions - 3)[0])
    sources = list(recipe.slices[0].sources)
    sources[absent] = replace(sources[absent], model=others.experts[3])
    swapped = replace(recipe, slices=(replace(recipe.slices[0], sources=tuple(sources)),))
    wider = Materializer(Family(materializer.family.ref, [*materializer.family.experts, others.experts[3]]))
    assert bits(materializer, recipe) == bits(wider, swapped)


def refs(materializer: Materializer) -> Mapping[str, ModelRef]:
    return dict(zip(LABELS, materializer.family.experts, strict=True))


def without(recipe: Recipe, models: Sequence[ModelRef]) -> Recipe:
    (part,) = recipe.slices
    sources = tuple(source for source in part.sources if source.model not in models)
    return replace(recipe, slices=(replace(part, sources=sources),))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("method", WEIGHTED)
def test_corners_of_weights_and_subset_merge(method: str, materializer: Materializer) -> None:
    """All the weight on an expert that does not take part: the others share it alike."""
    space = subset(materializer, [method], schedule="each", components=("attention",))
    for inner, part in product(inner_points(space.dimensions - 3), PARTS[:4]):
        recipe = with_part(space, part, inner)
        assert parse_recipe(to_document(recipe)).key() == recipe.key()
        bits(materializer, recipe)


def test_weight_on_the_absent_goes_to_the_others_alike(materializer: Materializer) -> None:
    space = subset(materializer, ["linear"])
    math_only = space_of(materializer, "linear").seed_points()["math"]
    recipe = with_part(space, (0.0, 1.0, 1.0), math_only)
    assert [source.settings["weight"] for source in recipe.slices[0].sources] == [0.0, 1.0, 1.0]
    recipe = with_part(space, (1.0, 1.0, 0.0), math_only)
    assert [source.settings["weight"] for source in recipe.slices[0].sources] == [1.0, 0.0, 0.0]


def test_seeds_of_a_subset_have_everybody_in(materializer: Materializer) -> None:
    space, inner = subset(materializer), choice(materializer)
    for kind in ("seed_points", "default_points"):
        ours, theirs = getattr(space, kind)(), getattr(inner, kind)()
        assert {k: space.decode(v) for k, v in ours.items()} == {k: inner.decode(v) for k, v in theirs.items()}
    assert [space.decode(vector).method for vector in space.example_points()] == THREE
    assert all((vector >= 0).all() and (vector <= 1).all() for vector in space.seed_points().values())


def test_a_method_between_two_experts_needs_both(materializer: Materializer) -> None:
    """The first of the two stands as base there, so no coordinate could leave one out."""
    pair = space_of(materializer, "slerp", LABELS[:2])
    with pytest.raises(ConfigError, match=r"^space\.subset: slerp needs all 2 experts; set it to false$"):
        ExpertSubset(pair, LABELS[:2])
    mixed = ExpertSubset(MethodChoice([pair, space_of(materializer, "linear", LABELS[:2])]), LABELS[:2])
    for part, first in product(product((0.0, 1.0), repeat=2), (0.0, 1.0)):
        vector = np.full(mixed.dimensions, 0.3)
        vector[:2], vector[2] = part, first
        recipe = mixed.decode(vector)
        assert recipe.method == ("linear" if first else "slerp")
        bits(materializer, recipe)


def test_a_fixed_weight_counts_for_those_who_take_part(materializer: Materializer) -> None:
    space = subset(materializer, ["dare_linear"], genes={"weight": 0.4})
    recipe = with_part(space, (1.0, 0.0, 1.0), np.full(space.dimensions - 3, 0.5))
    assert [source.settings["weight"] for source in recipe.slices[0].sources] == [0.4, 0.0, 0.4]


def test_the_same_experts_by_other_coordinates_are_one_recipe(materializer: Materializer) -> None:
    space = subset(materializer)
    inner = np.full(space.dimensions - 3, 0.4)
    assert with_part(space, (0.9, 0.1, 0.7), inner).key() == with_part(space, (0.5, 0.4, 1.0), inner).key()


def test_what_was_prepared_serves_every_subset(materializer: Materializer, tmp_path: Path) -> None:
    space = subset(materializer, ["ties"])
    cached = Materializer(materializer.family, prepared=tmp_path)
    inner = np.full(space.dimensions - 3, 0.4)
    bits(cached, with_part(space, (1.0, 1.0, 1.0), inner))
    files = sorted(tmp_path.rglob("*.safetensors"))
    for part in PARTS:
        bits(cached, with_part(space, part, inner))
    assert sorted(tmp_path.rglob("*.safetensors")) == files


@pytest.mark.parametrize(
    "method", [name for name in methods.names() if methods.banks_depend_on_experts(methods.load(name))]
)
def test_a_method_whose_banks_depend_on_all_experts_keeps_them_all(method: str, materializer: Materializer) -> None:
    if methods.adapters_only(methods.load(method)):
        pytest.skip("merges adapters only")
    with pytest.raises(ConfigError, match="needs all 3 experts"):
        subset(materializer, [method])
