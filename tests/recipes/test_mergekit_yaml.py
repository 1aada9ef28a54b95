"""recipe.yaml: one golden text, both directions, and every refusal in one line that names its key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.errors import ConfigError
from evomerge.recipes import dump_recipe, load_recipe, parse_recipe
from evomerge.recipes.document import to_document
from evomerge.recipes.recipe import FilteredValue, ModelRef, Recipe, Slice, Source, recipe_of_models

BASE, ONE, TWO = ModelRef("org/base", "abc"), ModelRef("org/one"), ModelRef("org/base", "abc", "org/lora", "v1")
RECIPE = Recipe(
    "dare_ties",
    BASE,
    (
        Slice(
            (
                Source(
                    ONE,
                    {"weight": (FilteredValue("embed", 0.1), FilteredValue(None, (0.2, 0.3, 1e-06))), "density": 0.5},
                ),
                Source(TWO, {"weight": 1.0}),
            )
        ),
    ),
    {"normalize": True, "lambda": (0.5, 1.5)},
    out_dtype="bfloat16",
    seed=7,
    options={"rescale_by": "l1", "sign": "weighted", "divisor": "weights"},
    notes={"score": 0.25, "experts": {"org/one": "sha"}},
)
GOLDEN = """\
merge_method: dare_ties
base_model: org/base@abc
models:
- model: org/one
  parameters:
    weight:
    - filter: embed
      value: 0.1
    - value: [0.2, 0.3, 1.0e-06]
    density: 0.5
- model: org/base@abc+org/lora@v1
  parameters:
    weight: 1.0
parameters:
  normalize: true
  lambda: [0.5, 1.5]
dtype: float32
out_dtype: bfloat16
evomerge:
  schema: 1
  exactness: distribution-only
  seed: 7
  options:
    rescale_by: l1
    sign: weighted
    divisor: weights
  score: 0.25
  experts:
    org/one: sha
"""


def document(**changes: Any) -> dict[str, Any]:
    models = [{"model": "org/one", "parameters": {"weight": 1.0}}]
    whole = {"merge_method": "ties", "base_model": "org/base", "models": models, **changes}
    return {key: value for key, value in whole.items() if value is not None}


def with_parameters(**parameters: Any) -> dict[str, Any]:
    return document(models=[{"model": "org/one", "parameters": parameters}])


def with_slice(**entry: Any) -> dict[str, Any]:
    source = {"model": "org/one", "layer_range": [0, 2], "parameters": {"weight": 1.0}}
    return document(models=None, slices=[{"sources": [source | entry]}])


def test_golden_text() -> None:
    assert dump_recipe(RECIPE) == GOLDEN


def test_reading_is_the_inverse_of_writing(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(GOLDEN)
    found = load_recipe(file)
    assert found == RECIPE and found.key() == RECIPE.key() and found.notes == RECIPE.notes


def test_slices_round_trip() -> None:
    sources = (Source(BASE, {}, (0, 2)), Source(ONE, {"weight": 0.5}, (1, 3)))
    parts = (
        Slice(sources, {"lambda": 0.5}, BASE),
        Slice((Source(BASE, {}, (2, 4)), Source(ONE, {"weight": 1.0}, (2, 4)))),
    )
    recipe = Recipe("task_arithmetic", BASE, parts, out_dtype="float32")
    again = parse_recipe(yaml.safe_load(dump_recipe(recipe)))
    assert again == recipe and again.key() == recipe.key()


def test_linear_lists_its_base_for_mergekit_and_reads_it_back() -> None:
    recipe = recipe_of_models("linear", BASE, (Source(ONE, {"weight": 1.0}),), {}, out_dtype="float32")
    written = to_document(recipe)
    assert written["models"][-1] == {"model": "org/base@abc", "parameters": {"weight": 0.0}}
    assert parse_recipe(written).key() == recipe.key()


def test_a_recipe_without_an_output_dtype_keeps_none() -> None:
    recipe = recipe_of_models("task_arithmetic", BASE, (Source(ONE, {"weight": 1.0}),), {})
    assert parse_recipe(to_document(recipe)).out_dtype is None


@pytest.mark.parametrize(
    ("dtypes", "wanted"),
    [({}, None), ({"dtype": "torch.float16"}, "float16"), ({"dtype": "float32", "out_dtype": "bfloat16"}, "bfloat16")],
    ids=str,
)
def test_the_output_has_out_dtype_or_dtype(dtypes: dict[str, str], wanted: str | None) -> None:
    assert parse_recipe(document(**dtypes)).out_dtype == wanted


def test_mergekits_spellings_of_a_value() -> None:
    text = """
    weight: [{filter: attn, value: [0, 1]}, {filter: "*", value: 1e-3}]
    density: {value: 0.5}
    """
    settings = parse_recipe(with_parameters(**yaml.safe_load(text))).slices[0].sources[0].settings
    assert settings == {
        "weight": (FilteredValue("attn", (0.0, 1.0)), FilteredValue(None, 0.001)),
        "density": (FilteredValue(None, 0.5),),
    }


def test_options_missing_from_the_file_have_their_defaults() -> None:
    assert parse_recipe(document()).options == {"trim": "tensor", "sign": "weighted", "divisor": "weights"}


REFUSED = [
    (document(models=None), r"^give either models or slices, with at least one entry$"),
    (document(models=[]), r"^give either models or slices, with at least one entry$"),
    (document(slices=[{"sources": []}]), r"^give either models or slices, with at least one entry$"),
    (document(modules={"default": {}}), r"^modules is not supported; use models or slices$"),
    (document(models={"a": 1}), r"^models: give a list"),
    (document(models=["org/one"]), r"^models: org/one is not a mapping"),
    (document(models=[{"parameters": {}}]), r"^models: an entry has no model"),
    (document(models=[{"model": "a/b", "parameters": {"weight": 1}}] * 2), r"^a/b is listed twice"),
    (document(merge_method="tise"), r"^merge method 'tise' is not known \(did you mean 'ties'\?\)"),
    (document(merge_method=None), r"^merge method '' is not known.*; choose one of arcee_fusion, "),
    (document(base_model=None), r"^ties needs a base_model"),
    (with_parameters(weight="much"), r"^parameters: weight: 'much' is not a number"),
    (with_parameters(weight=[0.1, "much"]), r"^parameters: weight: 'much' is not a number"),
    (with_parameters(weight=[{"value": [0.1, None]}]), r"^parameters: weight: null is not a number"),
    (with_parameters(weight=[{"filter": "attn"}]), r"^parameters: weight: each entry needs a value"),
    (with_parameters(weight=[0.1, {"value": 1}]), r"^parameters: weight: each entry needs a value"),
    (document(models=[{"model": {"path": "a"}}]), r"^model.path=null: give a path"),
    (document(models=[{"model": {"model": "a", "override_architecture": "X"}}]), r"^override_architecture is not"),
    (document(tokenizer_source="base", tokenizer={}), r"^give either tokenizer_source or tokenizer$"),
    (document(tokenizer=[1]), r"^tokenizer: \[1\] is not a mapping"),
    (document(tokenizer={"tokens": {"<x>": {"force": True}}}), r"^tokenizer: tokens: <x>: force needs a source"),
    (document(tokenizer={"pad_to_multiple_of": 1.5}), r"^tokenizer: pad_to_multiple_of: 1.5 is not a whole number"),
    (document(chat_template="llama3"), r"^chat_template: 'llama3' is no template; give its text, auto or chatml"),
    (document(evomerge={"options": {"trim": "modle"}}), r"option trim=modle is not one of tensor, model"),
    (document(evomerge={"options": {"tirm": "model"}}), r"no option 'tirm' \(did you mean 'trim'\?\)"),
    (with_slice(layer_range=None), r"^slices: every source needs a layer_range"),
    (with_slice(layer_range=[0]), r"^layer_range \[0\]: give \[first, last\)"),
    (
        document(merge_method="passthrough", base_model=None, models=[{"model": "org/one"}, {"model": "org/two"}]),
        r"^passthrough copies one model in each slice, not 2; list one source$",
    ),
    (document(models=None, slices=[{}]), r"give a list with at least one entry"),
    (
        document(
            merge_method="slerp", parameters={"t": 0.5}, models=[{"model": "a"}, {"model": "b"}, {"model": "org/base"}]
        ),
        r"^slerp merges 1 model with its base, not 2",
    ),
]


@pytest.mark.parametrize(("bad", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refusals_name_the_key_in_one_line(bad: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_recipe(bad)
    assert "\n" not in str(error.value)
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(bad))
    with pytest.raises(ConfigError) as error:
        load_recipe(file)
    assert str(error.value).startswith(f"{file}: ")


FUSION = {"merge_method": "arcee_fusion", "models": [{"model": "org/one"}]}
LISTED = [{"model": "org/base", "parameters": {"density": 0.5}}, *document()["models"]]
IGNORED = [
    (document(modles=[]), document(), r"modles has no effect: it is no key of a recipe (did you mean 'models'?)"),
    (
        document(models=[{"model": "org/one", "layer_range": [0, 9], "parameters": {"weight": 1.0}}]),
        document(),
        "models: layer_range has no effect: it is no key of a recipe",
    ),
    (
        document(parameters={"lamda": 1}),
        document(),
        "parameters: lamda has no effect: ties does not read it (did you mean 'lambda'?)",
    ),
    (document(parameters={"t": [0, {"x": 1}]}), document(), "parameters: t has no effect: ties does not read it"),
    (
        with_parameters(weight=1, normalize=False),
        document(),
        "parameters: normalize has no effect: ties reads it for all models only; move it from the model to the top "
        "to have it",
    ),
    (
        document(models=LISTED),
        document(models=[{"model": "org/base"}, *document()["models"]]),
        "parameters: density has no effect: ties reads it of the models that it merges into the base, not of the base",
    ),
    (
        with_parameters(weight=[{"fliter": "attn", "value": 1}]),
        with_parameters(weight=[{"value": 1}]),
        "parameters: weight: fliter has no effect: it is no key of a recipe (did you mean 'filter'?)",
    ),
    (document(tokenizer={"sourcs": 1}), document(), "tokenizer: sourcs has no effect: it is no key of a recipe"),
    (
        document(**FUSION, parameters={"lambda": 0.5}),
        document(**FUSION),
        "parameters: lambda has no effect: mergekit's arcee_fusion does not read it; add an evomerge block to the "
        "recipe to have it",
    ),
]


@pytest.mark.parametrize(("given", "same", "line"), IGNORED, ids=range(len(IGNORED)))
def test_what_mergekit_passes_over_has_no_effect_but_a_line(
    given: dict[str, Any], same: dict[str, Any], line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(yaml.safe_dump(given))
    found = load_recipe(file)
    (said,) = caplog.messages
    assert said.startswith(f"{file}: {line}")
    assert found == parse_recipe(same) and found.key() == parse_recipe(same).key()
    caplog.clear()
    assert parse_recipe(to_document(found)) == found and not caplog.messages


def test_one_line_for_a_key_of_many_models(caplog: pytest.LogCaptureFixture) -> None:
    models = [{"model": f"org/{n}", "parameters": {"weight": 1, "gamma": n}} for n in range(4)]
    parse_recipe(document(models=models))
    assert caplog.messages == ["parameters: gamma has no effect: ties does not read it"]


def test_what_mergekit_does_not_read_counts_in_a_recipe_of_ours() -> None:
    settings = parse_recipe(document(**FUSION, parameters={"lambda": 0.5}, evomerge={})).settings
    assert settings == {"lambda": 0.5}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"model": "org/one", "lora": "org/lora@v1"}, "org/one+org/lora@v1"),
        ({"model": {"path": "org/one", "revision": "abc"}, "lora": {"path": "org/lora"}}, "org/one@abc+org/lora"),
    ],
    ids=["text", "mappings"],
)
def test_mergekits_long_form_of_a_model(given: Any, wanted: str) -> None:
    models = [{"model": given, "parameters": {"weight": 1.0}}]
    assert str(parse_recipe(document(models=models)).slices[0].sources[0].model) == wanted


def test_keys_of_the_tokenizer_are_kept_and_change_no_weight() -> None:
    given = document(tokenizer={"source": "union", "tokens": {}}, chat_template="auto")
    found = parse_recipe(given)
    assert found == parse_recipe(document()) and found.key() == parse_recipe(document()).key()
    again = parse_recipe(yaml.safe_load(dump_recipe(found.with_notes({"label": "x"}))))
    assert again.tokenizer == found.tokenizer == {key: given[key] for key in ("tokenizer", "chat_template")}


ESCAPES = {
    "parameters-list": document(parameters=[1]),
    "parameters-number": with_parameters() | {"models": [{"model": "a", "parameters": 3}]},
    "evomerge-number": document(evomerge=3),
    "seed-text": document(evomerge={"seed": "abc"}),
    "options-list": document(evomerge={"options": ["a"]}),
    "layer_range-text": with_slice(layer_range=["a", 2]),
}


@pytest.mark.parametrize("bad", list(ESCAPES.values()), ids=list(ESCAPES))
def test_values_of_the_wrong_type_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse_recipe(bad)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ConfigError, match="out_dtype"):
        parse_recipe(document(out_dtype="floaty"))


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not YAML"), ("", "not a merge recipe"), ("- 1", "not a merge recipe")]
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_recipe(file)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(file))
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe(tmp_path / "absent.yaml")


SPELLINGS = {
    "underscores": (with_parameters(weight="1_000"), "parameters: weight: '1_000' is not a number"),
    "other-digits": (with_parameters(weight="٣"), "parameters: weight: '٣' is not a number"),
    "too-large": (with_parameters(weight=10**400), "parameters: weight: a number of 1329 bits is not a number"),
    "model-number": (document(models=[{"model": 1.5}]), "model=1.5: give a path or a hub id"),
    "model-null": (document(base_model={"model": None}), "model.path=null: give"),
    "revision-number": (document(base_model={"model": {"path": "a/b", "revision": 17}}), "model.revision=17: give"),
    "token-truth": (document(tokenizer={"tokens": {False: {}}}), "tokenizer: tokens: the key false is no text"),
    "filter-number": (with_parameters(weight=[{"filter": 0, "value": 1}]), "parameters: weight: filter=0: give a text"),
    "parameters-truth": (document(parameters=True), "parameters: true is not a mapping"),
}


@pytest.mark.parametrize(("bad", "message"), list(SPELLINGS.values()), ids=list(SPELLINGS))
def test_a_text_keeps_its_spelling_or_is_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_recipe(bad)
    assert message in str(error.value)


def test_numbers_of_a_file_are_decimal(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    for text, wanted in (("1e-3", 0.001), ("017", None), ("1:30", None), ("1_000", None), ("1e400", None)):
        file.write_text(yaml.safe_dump(with_parameters(weight="HERE")).replace("HERE", text))
        if wanted is not None:
            assert load_recipe(file).slices[0].sources[0].settings["weight"] == wanted
        else:
            with pytest.raises(ConfigError, match=text):
                load_recipe(file)


def test_a_long_source_of_tokens_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="^model=xxx.*: give a path or a hub id"):
        parse_recipe(document(tokenizer_source="x" * 300))
