"""TIES, DARE-TIES and TSV in Core Space: against float64, and where stacks of adapters are degenerate."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.errors import ConfigError
from evomerge.kernels import LinComb, LowRank
from evomerge.kernels.coefficients import Block
from evomerge.kernels.factors import Factors
from evomerge.kernels.sources import Update
from evomerge.kernels.voting import Divisor, Drop, Keep, Mask, Sign, Trim, vote
from evomerge.merging.materializer import Materializer
from evomerge.methods import _core
from evomerge.models.family import Family
from evomerge.recipes.recipe import ModelRef
from tests.families import Folders, save_adapter
from tests.methods import oracles_core as oracles
from tests.methods.oracles_papers import Array
from tests.methods.oracles_sparsifiers import uniforms
from tests.methods.paper_cases import MLP, close, coefficients, prepared, run
from tests.methods.recipes import recipe, some

METHODS = ["core_ties", "core_dare_ties", "core_tsv"]
VOTES = METHODS[:2]
every_method = pytest.mark.parametrize("name", METHODS)
every_vote = pytest.mark.parametrize("name", VOTES)
# (rows, columns), ranks: ordinary, of unequal ranks, with more rank than rows or columns, of one row
STACKS = [((14, 11), (2, 2, 2)), ((14, 11), (1, 3, 2)), ((7, 16), (4, 4, 4)), ((9, 5), (3, 3)), ((1, 9), (2, 1, 1))]
every_stack = pytest.mark.parametrize(("shape", "ranks"), STACKS, ids=str)


def adapter(shape: tuple[int, int], rank: int, seed: int, scale: float = 0.5) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(shape[0], rank, generator=generator), torch.randn(rank, shape[1], generator=generator)
    return Factors(up, down, scale)


def stack(shape: tuple[int, int], ranks: Sequence[int]) -> tuple[Tensor, list[Factors]]:
    base = torch.randn(shape, generator=torch.Generator().manual_seed(99))
    return base, [adapter(shape, rank, seed=i, scale=0.5 + i / 4) for i, rank in enumerate(ranks)]


def values(name: str, weights: list[float] | float = 1.0, **more: float) -> dict[str, list[float] | float]:
    return {"alpha": weights} if name == "core_tsv" else {"weight": weights, "density": 1.0, **more}


@every_stack
def test_cores_lose_nothing(shape: tuple[int, int], ranks: tuple[int, ...]) -> None:
    base, adapters = stack(shape, ranks)
    space = _core.core_space(prepared("core_ties", base, adapters))
    assert space is not None and space.ranks == ranks
    assert space.up.shape[1] == min(shape[0], sum(ranks)) and space.down.shape[0] == min(shape[1], sum(ranks))
    for side in (space.up.T @ space.up, space.down @ space.down.T):
        assert torch.allclose(side, torch.eye(len(side), dtype=torch.float64), atol=1e-12)
    for one, core in zip(adapters, space.cores, strict=True):
        assert np.allclose((space.up @ core @ space.down).numpy(), oracles.delta(one), atol=1e-12)


@every_stack
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.7, -0.4, 0.2], [0.0, 1.3, 0.6], [0.5, 0.0, 0.0]], ids=str)
@pytest.mark.parametrize("density", [1e-6, 0.2, 0.6123, 1.0])
def test_ties(shape: tuple[int, int], ranks: tuple[int, ...], weights: list[float], density: float) -> None:
    base, adapters = stack(shape, ranks)
    weights = weights[: len(ranks)]
    core = oracles.core_space(adapters)
    merged = oracles.elected([oracles.trimmed(one, density) for one in core.cores], weights, normalize=True)
    found = run("core_ties", base, adapters, weight=weights, density=density, **{"lambda": 0.8})
    close(found, base.double().numpy() + 0.8 * core.lifted(merged), 5e-6)


@pytest.mark.parametrize("sign", ["weighted", "unweighted"])
@pytest.mark.parametrize("divisor", ["weights", "count"])
@pytest.mark.parametrize("normalize", [True, False])
def test_ties_with_the_papers_sign_and_mean(sign: str, divisor: str, normalize: bool) -> None:
    base, adapters = stack((14, 11), (2, 3, 2))
    core, weights = oracles.core_space(adapters), [0.7, -0.4, 0.9]
    cores = [oracles.trimmed(one, 0.4) for one in core.cores]
    merged = oracles.elected(cores, weights, normalize, sign, divisor)
    options = {"sign": sign, "divisor": divisor}
    found = run("core_ties", base, adapters, options, weight=weights, density=0.4, normalize=normalize)
    close(found, base.double().numpy() + core.lifted(merged))


def test_the_authors_ties_is_one_of_the_options() -> None:
    base, adapters = stack((14, 11), (2, 2, 2))
    core, size = oracles.core_space(adapters), 6 * 6
    merged = oracles.ties_as_released(core.cores, 0.25)
    options = {"sign": "unweighted", "divisor": "count"}
    found = run("core_ties", base, adapters, options, weight=1.0, density=(int(0.25 * size) + 1) / size)
    close(found, base.double().numpy() + core.lifted(merged))


@every_stack
@pytest.mark.parametrize("rescale", [True, False])
def test_dare_ties(shape: tuple[int, int], ranks: tuple[int, ...], rescale: bool) -> None:
    base, adapters = stack(shape, ranks)
    core, weights, density = oracles.core_space(adapters), [0.7, -0.4, 0.9][: len(ranks)], 0.6
    factor = 1 / density if rescale else 1.0
    cores = []
    for expert, one in enumerate(core.cores):
        kept = (uniforms(one.size, 5, MLP, expert) < density).reshape(one.shape)
        cores.append(np.where(kept, one * factor, 0.0))
    merged = oracles.elected(cores, weights, normalize=False)
    setup = prepared("core_dare_ties", base, adapters, seed=5)
    given = coefficients("core_dare_ties", setup, weight=weights, density=density, rescale=rescale)
    assert isinstance(given, LowRank)
    assert np.allclose(given.core, merged, atol=1e-12)


@pytest.mark.parametrize("sign", ["weighted", "unweighted"])
@pytest.mark.parametrize("divisor", ["weights", "count"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", ["keep", "trim", "drop"])
def test_the_vote_is_the_passes_own_to_the_bit(
    sign: Sign, divisor: Divisor, normalize: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: dict[str, list[Mask]] = {
        "keep": [Keep(), Keep(), Keep()],
        "trim": [Trim(0.4), Keep(), Trim(float("inf"))],
        "drop": [Drop(0.3), Keep(), Drop(0.0)],
    }
    cores = torch.randn(3, 17, 23, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cores[:, :3] = 0.0
    cores[1, 3:6], cores[2, 3:6] = cores[0, 3:6] / 2, 0.0  # scaled and weighted, their sum is nothing
    given, keys = {"elect": True, "normalize": normalize, "sign": sign, "divisor": divisor}, (7, -8, 9, 10)
    found = vote(masks[kind], [0.5, -0.5, 0.3], [1.0, 2.0, 0.7], lam=0.8, keys=keys, **given)
    words, zero = torch.tensor(found.words, dtype=torch.int32), torch.tensor(0, dtype=torch.int32)
    numbers = torch.tensor(found.numbers, dtype=torch.float64)
    flat = cores.flatten(1).unbind()
    wanted = found.rule(Block(flat[0], flat, (), numbers, words, zero, zero)).view(17, 23).numpy()
    for block in (1 << 13, 50):
        monkeypatch.setattr(_core, "BLOCK", block)
        assert np.array_equal(_core._evaluate(found, cores), wanted)


@every_stack
@pytest.mark.parametrize("alphas", [[1.0, 1.0, 1.0], [0.7, -1.3, 0.2], [0.0, 1.5, 0.0]], ids=str)
def test_tsv_is_the_full_spaces(shape: tuple[int, int], ranks: tuple[int, ...], alphas: list[float]) -> None:
    base, adapters = stack(shape, ranks)
    directions = oracles.tsv([oracles.delta(one) for one in adapters], sum(ranks) // len(ranks))
    wanted = base.double().numpy() + sum(a * d for a, d in zip(alphas, directions, strict=False))
    close(run("core_tsv", base, adapters, alpha=alphas[: len(ranks)]), wanted, 5e-6)


def test_tsv_of_equal_ranks_is_tsv_m() -> None:
    base, adapters = stack((14, 11), (3, 3, 3))
    alphas = [0.7, 1.2, 0.4]
    ours, full = (run(name, base, adapters, alpha=alphas) for name in ("core_tsv", "tsv_m"))
    assert torch.allclose(ours, full, rtol=1e-5, atol=1e-6)


@every_vote
@pytest.mark.parametrize("given", [{"weight": 0.0, "density": 0.4}, {"weight": 0.5, "density": 0.0}], ids=str)
def test_what_leaves_nothing_is_the_base_to_the_bit(name: str, given: dict[str, float]) -> None:
    base, adapters = stack((9, 5), (2, 2))
    base[0] = -0.0  # + 0.0 would turn the sign
    setup = prepared(name, base, adapters)
    assert coefficients(name, setup, **given) == LinComb(1.0, (0.0, 0.0))
    assert coefficients(name, setup, weight=0.5, density=0.4, **{"lambda": 0.0}) == LinComb(1.0, (0.0, 0.0))


@every_vote
def test_one_adapter_alone_comes_from_its_own_factors(name: str) -> None:
    setup = prepared(name, *stack((9, 5), (2, 2)))
    genes = {"weight": [0.0, 1.0], "density": [0.3, 1.0]}
    assert coefficients(name, setup, **genes) == LinComb(0.0, (0.0, 1.0))


@every_method
def test_a_tensor_that_no_adapter_changes_is_the_base(name: str) -> None:
    for shape in ((9, 5), (9,), (2, 3, 4)):
        base = torch.randn(shape)
        setup = prepared(name, base, [None, None])
        assert setup.state == {}
        assert coefficients(name, setup, **values(name)) == LinComb(1.0, (0.0, 0.0))


@every_method
@pytest.mark.parametrize("zero", ["up", "down", "scale"])
def test_an_adapter_that_changes_nothing_is_none(name: str, zero: str) -> None:
    base, (first, second, idle) = stack((9, 7), (2, 2, 3))
    parts = {"up": idle.up, "down": idle.down, "scale": idle.scale}
    given = Factors(**{**parts, zero: 0.0 * parts[zero]})  # type: ignore[arg-type]
    genes = values(name, [0.7, 0.4, 0.9], density=0.5)
    assert torch.equal(
        run(name, base, [first, second, given], **genes), run(name, base, [first, second, None], **genes)
    )
    assert prepared(name, base, [given, given]).state == {}


@every_method
def test_identical_adapters_are_one(name: str) -> None:
    base, (one,) = stack((9, 7), (2,))
    space = _core.core_space(prepared(name, base, [one, one, one]))
    assert space is not None and space.cores.shape == (3, 2, 2)
    close(
        run(name, base, [one, one, one], **values(name, 1.0, normalize=1.0)), base.double().numpy() + oracles.delta(one)
    )


@every_method
def test_an_adapter_within_the_span_of_others_adds_no_direction(name: str) -> None:
    base, (first, second) = stack((9, 7), (2, 2))
    sum_of_both = Factors(torch.cat([first.up, second.up], dim=1), torch.cat([first.down, second.down]), 0.5)
    space = _core.core_space(prepared(name, base, [first, second, sum_of_both]))
    assert space is not None and space.cores.shape == (3, 4, 4)
    assert torch.isfinite(run(name, base, [first, second, sum_of_both], **values(name))).all()


def test_tsv_counts_only_the_adapters_that_change_the_tensor() -> None:
    base, (one,) = stack((9, 7), (3,))
    close(run("core_tsv", base, [None, one, None, None], alpha=1.0), base.double().numpy() + oracles.delta(one))


@pytest.mark.parametrize("name", ["core_ties", "core_tsv"])  # DARE's masks count elements row by row
def test_a_transposed_tensor_is_merged_alike(name: str) -> None:
    base, adapters = stack((9, 7), (2, 3))
    turned = [Factors(one.down.T, one.up.T, one.scale) for one in adapters]
    genes = values(name, [0.7, -0.4], density=0.4)
    ours, other = run(name, base, adapters, **genes), run(name, base.T.contiguous(), turned, **genes)
    assert torch.allclose(ours, other.T, rtol=1e-5, atol=1e-6)


def test_a_split_between_the_factors_matters_to_ties_and_not_to_tsv() -> None:
    base, (first, second) = stack((9, 7), (2, 2))
    other = Factors(second.up / 16, second.down * 16, second.scale)
    for name, same in (("core_ties", False), ("core_tsv", True)):
        genes = values(name, density=0.3)
        ours, theirs = (run(name, base, [first, given], **genes) for given in (second, other))
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5) == same


def test_an_adapter_of_weight_zero_has_no_vote_and_spans_the_space() -> None:
    base, adapters = stack((14, 11), (2, 2, 2))
    two, third = adapters[:2], adapters[2]
    louder = Factors(third.up, third.down, 40 * third.scale)
    genes = {"weight": [0.6, 0.3, 0.0], "density": 0.3}
    assert torch.equal(run("core_ties", base, adapters, **genes), run("core_ties", base, [*two, louder], **genes))
    alone = run("core_ties", base, two, weight=[0.6, 0.3], density=0.3)
    assert not torch.allclose(run("core_ties", base, adapters, **genes), alone, atol=1e-3)


@every_method
@pytest.mark.parametrize("dense", [torch.zeros(9, 7), torch.full((9, 7), 3.0)], ids=["zeros", "ones"])
def test_a_whole_weight_is_refused(name: str, dense: Tensor) -> None:
    base, adapters = stack((9, 7), (2, 2))
    with pytest.raises(ConfigError, match=rf"^{MLP}: expert 3 brings a whole weight.*choose ties$"):
        prepared(name, base, [*adapters, dense])
    with pytest.raises(ConfigError, match="^layer.bias: expert 1 brings a whole weight"):
        prepared(name, torch.zeros(9), [torch.ones(9), None], tensor="layer.bias")


@every_method
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", ["up", "down"])
def test_what_is_not_finite_is_never_voted_away(name: str, bad: float, side: str) -> None:
    base, (first, second) = stack((9, 7), (2, 2))
    hurt = {"up": second.up.clone(), "down": second.down.clone()}
    hurt[side][0, 0] = bad
    hurt["down" if side == "up" else "up"] *= 0.0  # and not hidden by an update that would be zero
    out = run(name, base, [first, Factors(**hurt, scale=0.5)], **values(name, density=0.3))
    assert not torch.isfinite(out).any()


@every_method
@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
def test_in_a_model(name: str, kind: str, folders: Callable[..., Folders], tmp_path: Path) -> None:
    base = folders(kind).base
    made = [save_adapter(kind, base, tmp_path / f"a{i}", rank, seed=i) for i, rank in enumerate((2, 3))]
    refs, merges = [ref for ref, _ in made], [merged for _, merged in made]
    materializer = Materializer(Family(base, refs))
    given = {} if name == "core_tsv" else {"density": 1.0, "lambda": 0.7}
    found = dict(materializer.tensors(recipe(name, base, refs, [0.6, 0.3], **given)))
    for tensor, parameter in materializer.family.base.parameter.items():
        stored = materializer.family.base.checkpoint.tensor(tensor)
        if all(torch.equal(merged[parameter], stored) for merged in merges):
            assert torch.equal(found[tensor], stored)
            continue
        deltas = [merged[parameter].double().numpy() - stored.double().numpy() for merged in merges]
        core = _space_of(materializer, tensor, refs)
        wanted = _expected(name, core, deltas)
        close(found[tensor], stored.double().numpy() + wanted, 1e-5)


def _space_of(materializer: Materializer, tensor: str, refs: Sequence[ModelRef]) -> oracles.Core:
    updates: list[Update] = [materializer.family.update(ref, tensor) for ref in refs]
    return oracles.core_space([update for update in updates if isinstance(update, Factors)])


def _expected(name: str, core: oracles.Core, deltas: list[Array]) -> Array:
    """What the recipe of `test_in_a_model` says, from peft's own dense merges."""
    cores = [core.left.T @ one @ core.right.T for one in deltas]
    for one, small in zip(deltas, cores, strict=True):
        assert np.allclose(core.lifted(small), one, atol=1e-5)
    if name == "core_tsv":
        return np.asarray(sum(oracles.tsv(deltas, 2)))
    return 0.7 * core.lifted(oracles.elected(cores, [0.6, 0.3], normalize=name == "core_ties"))


@every_method
def test_a_family_of_whole_checkpoints_is_refused(name: str, folders: Callable[..., Folders]) -> None:
    found = folders()
    with pytest.raises(ConfigError, match="merges LoRA adapters of the base only"):
        list(Materializer(Family(found.base, found.experts)).parts(some(name, found)))
