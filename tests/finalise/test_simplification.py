"""Simplification steps on recipes, and backward elimination on the toy problem."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge import methods
from evomerge.finalise.simplification import Simplification, applicable_steps, eliminate_backward
from evomerge.models.groups import Layout
from evomerge.recipes.recipe import FilteredValue, ModelRef, Recipe, Source, recipe_of_models
from evomerge.searching.objective import Objective
from evomerge.searching.stages import Candidate
from evomerge.space.space import Space
from evomerge.workers.jobs import Job
from tests.toys import BASE, EXPERTS, Run, ToyPool, weights

LABELS = {ref: label for label, ref in EXPERTS.items()}
LAYERS = Layout([f"model.layers.{i}.{part}.weight" for i in range(4) for part in ("mlp.up_proj", "self_attn.q_proj")])


def two(left: float, right: float) -> Recipe:
    pair = zip(EXPERTS.values(), (left, right), strict=True)
    return recipe_of_models("task_arithmetic", BASE, tuple(Source(ref, {"weight": w}) for ref, w in pair), {})


def layered(method: str = "task_arithmetic", **rest: Any) -> Recipe:
    names = frozenset(LAYERS.names)
    rest = {"schedule": "blocks:2", "components": ["attention"], **rest}
    space = Space(method=method, base=BASE, experts=EXPERTS, layout=LAYERS, touched=[names, names], **rest)
    return space.decode(np.random.default_rng(0).random(space.dimensions))


def found(recipe: Recipe) -> dict[str, Recipe]:
    return {step.description: step.apply(recipe) for step in applicable_steps(recipe, LABELS)}


def settings_of(recipe: Recipe, gene: str) -> list[Any]:
    return [setting for name, setting in recipe.all_settings() if name == gene]


def test_an_expert_goes_by_its_weight_and_the_last_one_stays() -> None:
    assert weights(found(two(0.8, 0.3))["without left"]) == (0.0, 0.3)
    assert weights(found(two(0.8, 0.3))["without right"]) == (0.8, 0.0)
    assert not [words for words in found(two(0.8, 0.0)) if words.startswith("without")]


def test_an_expert_that_votes_without_a_weight_is_not_listed() -> None:
    sources = tuple(Source(ref) for ref in EXPERTS.values())
    recipe = recipe_of_models("magmax", BASE, sources, {"lambda": 0.5})
    assert [s.model for s in found(recipe)["without left"].slices[0].sources] == [EXPERTS["right"]]


def test_one_expert_after_another_goes_by_its_name() -> None:
    refs = [ModelRef(name) for name in ("one", "two", "three")]
    recipe = recipe_of_models("magmax", BASE, tuple(Source(ref) for ref in refs), {"lambda": 0.5})
    every = {step.description: step for step in applicable_steps(recipe, {})}
    left = every["without two"].apply(every["without one"].apply(recipe))
    assert [source.model.path for source in left.slices[0].sources] == ["three"]


def test_layers_share_the_mean_of_their_values() -> None:
    recipe = layered()
    before, after = (settings_of(r, "weight") for r in (recipe, found(recipe)["one weight for all layers"]))
    for rules, plain in zip(before, after, strict=True):
        assert [rule.filter for rule in rules] == [rule.filter for rule in plain]
        assert [np.mean(rule.value) for rule in rules] == pytest.approx([rule.value for rule in plain], abs=1e-6)


def test_a_group_goes_back_to_the_base() -> None:
    recipe = found(layered())["self_attn. as in the base"]
    for rules in settings_of(recipe, "weight"):
        assert rules[0] == FilteredValue("self_attn.", 0.0) and isinstance(rules[1].value, tuple)


def test_no_group_goes_back_where_the_method_shares_out_its_weights() -> None:
    assert not [words for words in found(layered("linear")) if "base" in words]


def test_a_gene_takes_its_default() -> None:
    default = {gene.name: gene.default for gene in methods.load("ties").GENES}["density"]
    recipe = found(layered("ties"))["density at its default"]
    assert settings_of(recipe, "density") == [default] * 2
    assert "weight at its default" not in found(layered("ties"))


@pytest.mark.parametrize("method", methods.names())
def test_every_step_of_every_method_gives_another_recipe_that_says_no_more(method: str) -> None:
    if methods.adapters_only(methods.load(method)) or methods.load(method).EXPERTS[1] < 2:
        pytest.skip("takes adapters, or one expert")
    recipe = layered(method)

    def said(recipe: Recipe) -> int:
        return len({repr(setting) for _, setting in recipe.all_settings()}) + str(recipe).count(",")

    for words, simpler in found(recipe).items():
        assert simpler.key() != recipe.key(), words
        assert said(simpler) <= said(recipe), words
        assert simpler.method == recipe.method and simpler.seed == recipe.seed


def simplified(
    path: Path, pool: ToyPool, most: int = 20, objective: Objective | None = None
) -> tuple[Run, Simplification]:
    run = Run(path, pool)
    run.evaluator.objective = objective or run.evaluator.objective
    winner = Candidate.of("winner", two(0.8, 0.3))
    run.evaluator.evaluate([winner], "select")
    result = eliminate_backward(run.evaluator, winner, most, LABELS)
    run.ledger.close()
    return run, result


def only_left_counts(job: Job) -> list[float]:
    return [1.0 - (float(weights(job.recipe)[0]) - 0.8) ** 2] * 3


def test_an_expert_that_does_not_matter_goes(tmp_path: Path) -> None:
    run, result = simplified(tmp_path / "trials.jsonl", ToyPool(answers=only_left_counts))
    assert result.steps == ("without right",) and result.tried == 2
    assert weights(result.candidate.recipe) == (0.8, 0.0) and result.candidate.label == "simpler"
    assert {job.chunk.partition("/")[0] for job in run.pool.jobs} == {"select"}


def test_nothing_goes_where_everything_matters(tmp_path: Path) -> None:
    _, result = simplified(tmp_path / "trials.jsonl", ToyPool())
    assert result.steps == () and weights(result.candidate.recipe) == (0.8, 0.3)


def test_what_is_lost_within_one_standard_error_may_go(tmp_path: Path) -> None:
    """Without the right expert one item of six is lost: −1/6, with a standard error of 1/6 as well."""

    def answers(job: Job) -> list[float]:
        lost = weights(job.recipe)[1] == 0.0 and job.chunk.endswith("/0")
        return [0.0 if lost else 1.0, 1.0, 1.0] if weights(job.recipe)[0] else [0.0] * 3

    assert simplified(tmp_path / "one.jsonl", ToyPool(answers=answers))[1].steps == ("without right",)

    def two_lost(job: Job) -> list[float]:
        return [0.0, 1.0, 1.0] if weights(job.recipe)[1] == 0.0 else answers(job)

    assert simplified(tmp_path / "two.jsonl", ToyPool(answers=two_lost))[1].steps == ()


def test_a_floor_is_not_given_up(tmp_path: Path) -> None:
    def answers(job: Job) -> list[float]:
        left, right = weights(job.recipe)
        return [0.0] * 3 if not left else [0.8] * 3 if right else [0.79, 0.79, 0.81]

    slight = ToyPool(answers=answers)
    plain = simplified(tmp_path / "free.jsonl", slight)[1]
    assert plain.steps == ("without right",)
    floored = Objective({"toy": 1.0}, keep={"toy": 0.8})
    assert simplified(tmp_path / "kept.jsonl", slight, objective=floored)[1].steps == ()


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_it_keeps_to_its_budget_and_its_failures_end_nothing(tmp_path: Path, most: int) -> None:
    pool = ToyPool(fails=lambda job: "died" if weights(job.recipe)[0] == 0.0 else None, answers=only_left_counts)
    run, result = simplified(tmp_path / "trials.jsonl", pool, most)
    assert len({job.key for job in run.pool.jobs}) <= 1 + most
    assert result.steps == (("without right",) if most >= 4 else ())


def test_every_kind_is_among_the_first_steps() -> None:
    assert [step.kind for step in applicable_steps(layered(), LABELS)][:3] == ["expert", "group", "layers"]
    assert [step.kind for step in applicable_steps(layered("breadcrumbs"), LABELS)][:4] == [
        "expert",
        "group",
        "layers",
        "default",
    ]
