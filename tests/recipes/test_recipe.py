"""Recipes as values: settings, references and content keys."""

from dataclasses import replace

import pytest

from evomerge.recipes.recipe import (
    FilteredValue,
    ModelRef,
    Recipe,
    Setting,
    Slice,
    Source,
    evaluate,
    recipe_of_models,
    simplify_setting,
)

BASE, EXPERT = ModelRef("org/base"), ModelRef("org/expert")
SOURCE = Source(EXPERT, {"weight": 0.5})
RECIPE = recipe_of_models("task_arithmetic", BASE, (SOURCE,), {"lambda": 1.0}, out_dtype="bfloat16", seed=1)
GOLDEN_KEY = "51a1cbf94a798d7b"


@pytest.mark.parametrize(
    ("setting", "depth", "value"),
    [
        (0.3, 0.5, 0.3),
        (True, 0.0, True),
        ((0.0, 1.0), 0.25, 0.25),
        ((0.0, 1.0, 0.0), 0.75, 0.5),
        ((0.0, 1.0), 1.0, 1.0),
        ((2.0,), 0.7, 2.0),
        ((True, False), 0.4, True),
        ((FilteredValue("attn", 0.1), FilteredValue("mlp", (0.0, 1.0)), FilteredValue(None, 0.9)), 0.5, 0.9),
        ((FilteredValue("proj", 0.1), FilteredValue(None, 0.9)), 0.5, 0.1),
        ((FilteredValue("q_proj", (0.0, 1.0)), FilteredValue("proj", 0.9)), 0.5, 0.5),
        ((FilteredValue("mlp", 0.1),), 0.5, None),
    ],
    ids=str,
)
def test_evaluate(setting: Setting, depth: float, value: float | bool | None) -> None:
    assert evaluate(setting, ("layers.0.q_proj.weight",), depth) == value


def test_a_rule_matches_any_spelling() -> None:
    setting = (FilteredValue("transformer.h", 1.0),)
    assert evaluate(setting, ("h.0.w", "transformer.h.0.w"), 0.0) == 1.0
    assert evaluate(setting, ("h.0.w",), 0.0) is None


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ((0.2, 0.2), 0.2),
        ((0.2, 0.3), (0.2, 0.3)),
        ((FilteredValue("a", 0.2), FilteredValue(None, (0.2, 0.2))), 0.2),
        (
            (FilteredValue("a", (0.1, 0.1)), FilteredValue(None, 0.2)),
            (FilteredValue("a", 0.1), FilteredValue(None, 0.2)),
        ),
        ((FilteredValue("a", 0.2), FilteredValue("b", 0.2)), (FilteredValue("a", 0.2), FilteredValue("b", 0.2))),
        (0.4, 0.4),
    ],
    ids=str,
)
def test_simplify_keeps_every_value(long: Setting, short: Setting) -> None:
    assert simplify_setting(long) == short
    for name in ("a", "b", "c"):
        for depth in (0.0, 0.3, 1.0):
            assert evaluate(short, (name,), depth) == pytest.approx(evaluate(long, (name,), depth))


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("org/base", ModelRef("org/base")),
        ("org/base@main", ModelRef("org/base", "main")),
        ("org/base+org/lora", ModelRef("org/base", None, "org/lora")),
        ("org/base@v1+org/lora@v2", ModelRef("org/base", "v1", "org/lora", "v2")),
    ],
)
def test_references_read_and_write(text: str, ref: ModelRef) -> None:
    assert ModelRef.parse(text) == ref and str(ref) == text


def test_an_existing_folder_wins_over_its_reading(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("models")
    for name in ("a+b", "c@d"):
        (folder / name).mkdir()
        assert ModelRef.parse(str(folder / name)) == ModelRef(str(folder / name))
    both = ModelRef.parse(f"{folder / 'c@d'}+{folder / 'c@d'}")
    assert both == ModelRef(str(folder / "c@d"), None, str(folder / "c@d"))


def test_keys_follow_the_merge_and_nothing_else() -> None:
    key = RECIPE.key()
    assert len(key) == 16 and int(key, 16) >= 0
    assert key == GOLDEN_KEY, "a changed key makes every ledger on disk stale"
    assert RECIPE.with_notes({"score": 1}).key() == key and RECIPE.with_notes({"score": 1}) == RECIPE
    reordered = recipe_of_models("task_arithmetic", BASE, (Source(EXPERT, {"weight": 0.5}),), {"lambda": 1.0})
    assert replace(reordered, out_dtype="bfloat16", seed=1).key() == key
    changed = [
        replace(RECIPE, seed=2),
        replace(RECIPE, out_dtype="float32"),
        replace(RECIPE, method="ties"),
        replace(RECIPE, base=EXPERT),
        replace(RECIPE, settings={"lambda": 0.9}),
        replace(RECIPE, options={"sign": "weighted"}),
        replace(RECIPE, slices=(Slice((Source(EXPERT, {"weight": 0.500001}),)),)),
        replace(RECIPE, slices=(Slice((Source(EXPERT, {"weight": 0.5}, (0, 1)),)),)),
        replace(RECIPE, slices=(Slice((SOURCE,), {"lambda": 1.0}),)),
        replace(RECIPE, slices=(Slice((SOURCE,), base=EXPERT),)),
    ]
    assert len({key, *(recipe.key() for recipe in changed)}) == 1 + len(changed)


def test_the_order_of_settings_does_not_matter_to_the_key() -> None:
    one = Source(EXPERT, {"weight": 0.5, "density": 1.0})
    two = Source(EXPERT, {"density": 1.0, "weight": 0.5})
    assert recipe_of_models("ties", BASE, (one,), {}).key() == recipe_of_models("ties", BASE, (two,), {}).key()


def test_models_lists_each_once_the_base_first() -> None:
    third = ModelRef("org/third")
    parts = (Slice((SOURCE, Source(BASE))), Slice((Source(third),), base=EXPERT))
    assert Recipe("linear", BASE, parts).models() == (BASE, EXPERT, third)
    assert Recipe("linear", None, parts).models() == (EXPERT, BASE, third)


def test_all_settings_come_from_every_level() -> None:
    part = Slice((Source(EXPERT, {"weight": 1.0}),), {"normalize": True})
    assert dict(Recipe("ties", BASE, (part,), {"lambda": 2.0}).all_settings()) == {
        "lambda": 2.0,
        "normalize": True,
        "weight": 1.0,
    }
