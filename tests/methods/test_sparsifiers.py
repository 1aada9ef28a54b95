"""Breadcrumbs, DELLA, SCE and RAM against float64 oracles, and at their edges."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge import kernels, methods
from evomerge.errors import CandidateError
from evomerge.kernels import Runner
from evomerge.kernels.coefficients import Consensus
from evomerge.kernels.sources import Sources
from evomerge.methods import _magnitudes, _variance
from evomerge.methods._bands import ends
from tests.methods import oracles_sparsifiers as oracles
from tests.methods.oracles_sparsifiers import Array
from tests.methods.recipes import merge, random_tensors
from tests.passes import merged

SHAPES = [(1,), (11,), (13, 7), (3, 5, 4), (2000,)]
WEIGHTS = [(0.7, 0.4, 0.2), (0.9, -0.3, 0.5), (1.3, 0.0, 0.6)]
SEED, TENSOR = 3, "layer.weight"  # what `merge` gives a tensor
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_weights = pytest.mark.parametrize("weights", WEIGHTS, ids=str)
Genes = Mapping[str, float | bool]


def family(shape: tuple[int, ...], experts: int = 3, scale: float = 1.0) -> tuple[list[Tensor], Array, list[Array]]:
    """A base and its experts; deltas of 0.1·scale."""
    base, *others = random_tensors(shape, experts)
    tensors = [base, *(base + scale * (other - base) for other in others)]
    first, *rest = [tensor.double().numpy() for tensor in tensors]
    return tensors, first, rest


def close(ours: Tensor, wanted: Array) -> None:
    assert np.allclose(ours.double().numpy(), wanted, rtol=2e-6, atol=2e-6)


def setup_of(name: str, tensors: Sequence[Tensor], seed: int = SEED) -> methods.Setup:
    """A prepared tensor."""
    sources = Sources(TENSOR, tensors[0], tensors[1:])
    setup = methods.Setup(sources, methods.choose_options(name, {}), seed)
    sources.set_prepared(methods.load(name).prepare(setup))
    return setup


def coefficients(name: str, setup: methods.Setup, *rows: Genes, **shared: float | bool) -> kernels.Coefficients:
    method = methods.load(name)
    known = {key: value for key, value in method.SHARED.items() if value is not None}
    own = [{"weight": 0.5, **row} for row in rows] or [{}] * len(setup.sources)
    return method.coefficients(setup, methods.Genes({**known, **shared}, tuple(own), {}))


def run(name: str, tensors: Sequence[Tensor], *rows: Genes, **shared: float | bool) -> Tensor:
    setup = setup_of(name, tensors)
    return merged(coefficients(name, setup, *rows, **shared), setup.sources)


# Breadcrumbs


@every_shape
@every_weights
@pytest.mark.parametrize("name", ["breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
def test_breadcrumbs(
    shape: tuple[int, ...], weights: tuple[float, ...], name: str, normalize: bool, rescale: bool
) -> None:
    tensors, base, experts = family(shape)
    densities, gammas = (0.5, 0.93, 0.29), (0.01, 0.1, 0.0)

    def sparsify(i: int, delta: Array) -> Array:
        masked = delta * oracles.window(delta, densities[i], gammas[i])
        return oracles.l1_rescaled(delta, masked) if rescale else masked

    elect = name == "breadcrumbs_ties"
    wanted = oracles.vote(base, experts, weights, sparsify, elect=elect, normalize=normalize, lam=0.8)
    rows = [{"weight": w, "density": d, "gamma": g} for w, d, g in zip(weights, densities, gammas, strict=True)]
    close(run(name, tensors, *rows, **{"normalize": normalize, "rescale": rescale, "lambda": 0.8}), wanted)


@pytest.mark.parametrize("size", [1, 3, 99, 100, 1000, 1001])
@pytest.mark.parametrize("density", [0.0, 0.004, 0.5, 0.9, 0.995, 0.12345])
@pytest.mark.parametrize("gamma", [-0.3, 0.0, 0.01, 0.2, 1.0, 1.7, 0.054321])
def test_a_window_is_mergekits_for_any_share(size: int, density: float, gamma: float) -> None:
    """Outside of 0 … 1 and off the prepared grid too."""
    delta = torch.randn(size, generator=torch.Generator().manual_seed(size))
    tensors = [torch.zeros(size), delta]
    wanted = oracles.window(delta.double().numpy(), density, gamma)
    for rescale in (False, True):
        masked = delta.double().numpy() * wanted
        out = oracles.l1_rescaled(delta.double().numpy(), masked) if rescale else masked
        row = {"weight": 1.0, "density": density, "gamma": gamma}
        close(run("breadcrumbs", tensors, row, rescale=rescale), out)


def test_gamma_counts_for_nothing_at_full_density() -> None:
    tensors, _, _ = family((20, 10), 1)
    row = {"weight": 1.0, "density": 1.0, "gamma": 0.5}
    assert torch.equal(run("breadcrumbs", tensors, row), tensors[1])


def test_a_short_tensor_keeps_nothing_where_its_share_is_below_one_element() -> None:
    tensors, _, _ = family((3,), 1)  # ties keeps one element at least
    row = {"weight": 1.0, "density": 0.3, "gamma": 0.01}
    assert torch.equal(run("breadcrumbs", tensors, row, rescale=True), tensors[0])


def test_equal_magnitudes_at_the_ends_of_a_window_are_all_kept() -> None:
    delta = torch.tensor([1.0, -1.0, 2.0, 2.0, -2.0, 3.0, 3.0, 4.0])
    row = {"weight": 1.0, "density": 0.375, "gamma": 0.25}  # positions 3, 4, 5: magnitudes 2, 2, 3
    out = run("breadcrumbs", [torch.zeros(8), delta], row)
    assert out.tolist() == [0.0, 0.0, 2.0, 2.0, -2.0, 3.0, 3.0, 0.0]
    out = run("breadcrumbs", [torch.zeros(8), delta], row, rescale=True)
    assert out.abs().sum() == pytest.approx(delta.abs().sum())


@pytest.mark.parametrize("size", [1, 2, 7, 100, 999, 1000, 4096, 331_776, 58_720_256, 1_000_000_007])
def test_both_ends_of_every_window_of_the_grid_are_prepared(size: int) -> None:
    known = set(_magnitudes.counts(size, _magnitudes.BAND_OFFSETS).tolist())
    generator = np.random.default_rng(size)
    for k, g in generator.integers(0, 1000, (4000, 2)):
        found = ends(size, int(k) / 1000, int(g) / 1000)
        assert found is None or known.issuperset(found)


def test_an_infinite_outlier_does_not_vanish() -> None:
    tensors, _, _ = family((10, 10), 2)
    tensors[1][0, 0] = float("inf")
    row = {"density": 0.5, "gamma": 0.1}
    assert not torch.isfinite(run("breadcrumbs", tensors, row, row)).all()


# DELLA


@pytest.mark.parametrize("shape", [(11,), (13, 7), (3, 5, 4), (6, 1)], ids=str)
@every_weights
@pytest.mark.parametrize("name", ["della", "della_linear"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
def test_della(shape: tuple[int, ...], weights: tuple[float, ...], name: str, normalize: bool, rescale: bool) -> None:
    tensors, base, experts = family(shape)
    densities, epsilons = (0.5, 0.71, 1.0), (0.15, -0.2, 0.15)

    def sparsify(i: int, delta: Array) -> Array:
        if densities[i] == 1:
            return delta
        masked = delta * oracles.della_mask(delta, densities[i], epsilons[i], SEED, TENSOR, i)
        return oracles.l1_rescaled(delta, masked) if rescale else masked

    wanted = oracles.vote(base, experts, weights, sparsify, elect=name == "della", normalize=normalize, lam=0.7)
    rows = [{"weight": w, "density": d, "epsilon": e} for w, d, e in zip(weights, densities, epsilons, strict=True)]
    close(run(name, tensors, *rows, **{"normalize": normalize, "rescale": rescale, "lambda": 0.7}), wanted)


@pytest.mark.parametrize("density", [0.5, 0.3141592])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.123456])
def test_della_keeps_the_l1_norm(density: float, epsilon: float) -> None:
    tensors, _, _ = family((40, 30), 1)
    row = {"weight": 1.0, "density": density, "epsilon": epsilon}
    update = run("della_linear", tensors, row) - tensors[0]
    assert update.abs().sum().item() == pytest.approx((tensors[1] - tensors[0]).abs().sum().item(), rel=1e-4)
    assert 0.2 < (update == 0).float().mean() < 0.8


@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.3), (0.3, 0.0), (0.6, -0.25)])
@pytest.mark.parametrize("columns", [2, 5, 11])
def test_dellas_probabilities_are_linear_in_the_rank(density: float, epsilon: float, columns: int) -> None:
    """Over many rows and seeds, and without a correlation between the elements of a row or between experts."""
    rows, generator = 4000, torch.Generator().manual_seed(columns)
    delta = torch.randn(rows, columns, generator=generator)
    sources = [torch.zeros(rows, columns), delta, delta]
    kept = []
    for expert in (0, 1):
        weights = [{"weight": float(expert == i), "density": density, "epsilon": epsilon} for i in (0, 1)]
        kept.append((run("della_linear", sources, *weights, rescale=False) != 0).double())
    order = delta.abs().argsort(1)
    draws = torch.stack([k.gather(1, order) for k in kept], 2).flatten(1)  # by rank, then expert
    wanted = (density - epsilon) + 2 * epsilon * torch.arange(columns) / (columns - 1)
    wanted = wanted.repeat_interleave(2).double()
    sigma = (wanted * (1 - wanted) / rows).sqrt()
    assert ((draws.mean(0) - wanted).abs() < 5 * sigma).all()
    centred = (draws - wanted) / (wanted * (1 - wanted)).sqrt()
    correlation = centred.T @ centred / rows - torch.diag_embed((centred**2).mean(0))
    assert correlation.abs().max() < 5 / rows**0.5


@pytest.mark.parametrize(
    ("density", "epsilon"), [(0.85, 0.15), (0.15, 0.15), (0.999, 0.1), (0.5, 0.6), (0.1, -0.2), (0.9, -0.2)]
)
def test_della_refuses_probabilities_that_leave_the_open_interval(density: float, epsilon: float) -> None:
    tensors, _, _ = family((5, 4), 1)
    with pytest.raises(CandidateError, match=r"della: density .* lower epsilon"):
        run("della", tensors, {"density": density, "epsilon": epsilon})


@pytest.mark.parametrize(("density", "kept"), [(1.0, True), (1.5, True), (0.0, False), (-0.2, False)])
def test_della_asks_for_no_interval_where_nothing_is_drawn(density: float, kept: bool) -> None:
    tensors, _, _ = family((5, 4), 1)
    out = run("della", tensors, {"weight": 1.0, "density": density, "epsilon": 0.15})
    assert torch.equal(out, tensors[1] if kept else tensors[0])


@pytest.mark.parametrize("gene", ["density", "epsilon"])
def test_every_density_of_a_search_goes_with_every_epsilon(gene: str) -> None:
    low, high = ({g.name: getattr(g, end) for g in methods.load("della").GENES} for end in ("low", "high"))
    assert low["density"] - high["epsilon"] > 0 and high["density"] + high["epsilon"] < 1


def test_nine_experts_need_a_second_bank_of_coins() -> None:
    tensors, base, experts = family((6, 9), 9)
    setup = setup_of("della_linear", tensors)
    assert {name for name in setup.state if name.startswith("bank.")} == {"bank.coins.0", "bank.coins.1"}
    assert all(setup.state[name].dtype == torch.uint8 for name in ("bank.coins.0", "bank.coins.1"))

    def sparsify(i: int, delta: Array) -> Array:
        return delta * oracles.della_mask(delta, 0.5, 0.3, SEED, TENSOR, i)

    wanted = oracles.vote(base, experts, [0.5] * 9, sparsify, elect=False, normalize=False)
    rows = [{"density": 0.5, "epsilon": 0.3}] * 9
    close(run("della_linear", tensors, *rows, rescale=False), wanted)


def test_ranks_do_not_depend_on_how_many_rows_are_ranked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, _, _ = family((37, 8), 2)
    tensors[1][5:20] = tensors[0][5:20] + 1.0  # equal magnitudes rank by their place
    whole = setup_of("della", tensors).state
    monkeypatch.setattr("evomerge.methods._ranks.CHUNK", 20)
    parts = setup_of("della", tensors).state
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


# SCE

SHARES = [0.0, 0.001, 0.1, 0.29, 0.5, 0.999, 1.0, 1.5, -0.5, 0.12345]


@every_shape
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("experts", [1, 2, 3, 5])
def test_sce(shape: tuple[int, ...], share: float, experts: int) -> None:
    tensors, base, others = family(shape, experts)
    close(run("sce", tensors, select_topk=share), oracles.sce(base, others, share))


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.01, 0.004, 1e-3])
def test_sce_weighs_alike_where_the_squares_are_tiny(scale: float) -> None:
    base = torch.zeros(50, 20)
    deltas = torch.randn(3, 50, 20, generator=torch.Generator().manual_seed(1)) * torch.tensor([1, 2, 3]).view(3, 1, 1)
    tensors = [base, *(delta * 0.1 * scale for delta in deltas)]
    wanted = oracles.sce(base.double().numpy(), [t.double().numpy() for t in tensors[1:]], 0.5)
    assert np.allclose(run("sce", tensors, select_topk=0.5).double().numpy(), wanted, rtol=1e-5, atol=1e-9)


def test_sce_counts_elements_in_fp32_as_mergekit() -> None:
    assert int(0.29 * 100) == 28 and _variance.selected_count(100, 0.29) == 29


def test_sce_selects_nothing_where_experts_agree() -> None:
    tensors, _, _ = family((8, 6), 1)
    for count in (1, 2, 5):
        same = [tensors[0], *[tensors[1]] * count]
        assert torch.equal(run("sce", same, select_topk=0.9), tensors[0])
        assert torch.allclose(run("sce", same, select_topk=1.0), tensors[1], rtol=1e-6)


def test_sce_counts_only_the_elements_on_which_experts_differ() -> None:
    tensors, base, _ = family((40, 5), 3)
    for expert in tensors[1:]:
        expert[10:] = tensors[0][10:]
    others = [tensor.double().numpy() for tensor in tensors[1:]]
    assert int(setup_of("sce", tensors).state["differing"]) == 50
    close(run("sce", tensors, select_topk=0.5), oracles.sce(base, others, 0.5))


def test_opposite_experts_elect_plus() -> None:
    tensors, base, _ = family((8, 6), 1)
    tensors.append(2 * tensors[0] - tensors[1])
    close(run("sce", tensors, select_topk=1.0), oracles.sce(base, [t.double().numpy() for t in tensors[1:]], 1.0))


def test_sums_of_squares_are_exact_beside_an_outlier() -> None:
    deltas = torch.full((2, 3, 50_000), 1e-4)
    deltas[0] *= -1
    deltas[0, 0, 0] = 1e3
    squares = setup_of("sce", [torch.zeros(3, 50_000), *deltas]).state["squares"][:, -1]
    assert squares.tolist() == pytest.approx([float((d.double() ** 2).sum()) for d in deltas], rel=1e-12)


# RAM


@every_shape
@pytest.mark.parametrize("epsilon", [1e-5, 5e-4, 0.0, -1.0, 0.08, 0.1234567, 1e9])
@pytest.mark.parametrize("experts", [1, 2, 4])
def test_ram(shape: tuple[int, ...], epsilon: float, experts: int) -> None:
    tensors, base, others = family(shape, experts)
    close(run("ram", tensors, epsilon=epsilon), oracles.ram(base, others, epsilon))


@every_shape
@pytest.mark.parametrize("epsilon", [1e-6, 1e-5, 3e-4, 1e-3, 0.0, -1.0, 4e-4 + 1e-9, 1.5, 1e9])
@pytest.mark.parametrize("experts", [1, 2, 4])
@pytest.mark.parametrize(("r", "alpha"), [(0.1, 0.2), (0.5, 1.0), (0.3, 10.0), (0.5, -0.5)])
def test_ramplus(shape: tuple[int, ...], epsilon: float, experts: int, r: float, alpha: float) -> None:
    tensors, base, others = family(shape, experts, scale=0.004)
    ours = run("ramplus_tl", tensors, epsilon=epsilon, r=r, alpha=alpha) - tensors[0]
    wanted = oracles.ram(base, others, epsilon, r, alpha) - base
    assert np.allclose(ours.double().numpy(), wanted, rtol=1e-5, atol=4e-7)


def test_ramplus_scales_what_one_expert_changed_alone() -> None:
    tensors = [torch.zeros(4), torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([3.0, 0.0, 0.0, 1.0])]
    out = run("ramplus_tl", tensors, r=0.5, alpha=10.0, epsilon=1e-5)
    assert out.tolist() == [2.0, 1.25, 1.25, 1.5]  # ρ = 1/2 and 1/1


def test_an_expert_that_changed_nothing_is_no_nan() -> None:
    tensors, base, others = family((6, 5), 2)
    tensors[2], others[1] = tensors[0], base
    close(run("ramplus_tl", tensors, epsilon=0.0), oracles.ram(base, others, 0.0, 0.1, 0.2))


@pytest.mark.parametrize("name", ["ram", "ramplus_tl"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_vanish_below_epsilon(name: str, value: float) -> None:
    tensors, _, _ = family((6, 5), 2)
    tensors[1][2, 2] = value
    assert not torch.isfinite(run(name, tensors, epsilon=1e9)[2, 2])


# All of them

GRID: dict[str, Callable[[int], tuple[list[Genes], Genes]]] = {
    "breadcrumbs": lambda n: ([{"density": 0.473, "gamma": 0.037}] * n, {"rescale": True}),
    "breadcrumbs_ties": lambda n: ([{"density": 0.973, "gamma": 0.1}] * n, {"rescale": True}),
    "della": lambda n: ([{"density": 0.473, "epsilon": 0.137}] * n, {}),
    "della_linear": lambda n: ([{"density": 0.3, "epsilon": 0.15}] * n, {}),
    "sce": lambda n: ([], {"select_topk": 0.377}),
    "ram": lambda n: ([], {"epsilon": 0.000123}),
    "ramplus_tl": lambda n: ([], {"epsilon": 0.000123, "r": 0.3, "alpha": 0.7}),
}
every_sparsifier = pytest.mark.parametrize("name", GRID)


@every_sparsifier
@pytest.mark.parametrize("size", [3, 977, 12_345])
def test_a_search_reads_no_weight_for_coefficients(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of(name, family((size,))[0])

    def refuse(self: Sources, index: int) -> Tensor:
        raise AssertionError("a pass over weights")

    monkeypatch.setattr(Sources, "delta", refuse)
    rows, shared = GRID[name](3)
    coefficients(name, setup, *rows, **shared)


@every_sparsifier
def test_off_the_grid_is_on_the_line_between_neighbours(name: str) -> None:
    """What is found on demand agrees with the tables: a share a hair above a grid point keeps the same elements."""
    setup = setup_of(name, family((997,))[0])
    rows, shared = GRID[name](3)
    hair = {"density", "select_topk"}
    near = [{key: value + 1e-12 * (key in hair) for key, value in row.items()} for row in rows]
    near_shared = {key: value + 1e-12 if key in hair else value for key, value in shared.items()}
    found = coefficients(name, setup, *rows, **shared)
    again = coefficients(name, setup, *near, **near_shared)
    assert isinstance(found, Consensus) and isinstance(again, Consensus)
    assert again.numbers == pytest.approx(found.numbers, rel=1e-9) and again.rule == found.rule


@every_sparsifier
def test_a_nan_prepares_and_survives(name: str) -> None:
    tensors, _, _ = family((20, 30))
    tensors[2][3, 4] = float("nan")
    rows, shared = GRID[name](3)
    assert torch.isnan(run(name, tensors, *rows, **shared)).any()


ALONE: dict[str, Genes] = {
    "sce": {"select_topk": 1.0},
    "ram": {"epsilon": 0.0},
    "ramplus_tl": {"epsilon": 0.0},
}


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_single_expert_comes_back_to_the_bit(name: str, dtype: torch.dtype) -> None:
    base, expert = random_tensors((9, 14), 1, dtype)
    expert = expert * 1e-3  # where base + (expert − base) rounds
    assert torch.equal(run(name, [base, expert], **ALONE[name]), expert.float())


@pytest.mark.parametrize("name", ALONE)
def test_the_value_that_gives_the_base_gives_it(name: str) -> None:
    tensors, _, _ = family((9, 14))
    at_base = {gene.name: gene.base for gene in methods.load(name).GENES if gene.base is not None}
    assert at_base and torch.equal(run(name, tensors, **at_base), tensors[0])


@every_sparsifier
def test_the_seed_counts_only_where_masks_are_random(name: str) -> None:
    tensors, _, _ = family((20, 30))
    one, same, other = (merge(name, tensors[0], tensors[1:], seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert torch.equal(one, other) == (methods.load(name).EXACTNESS == "exact")


@pytest.mark.slow
@every_sparsifier
def test_a_compiled_pass_gives_the_same_bits(name: str) -> None:
    tensors, _, _ = family((90, 111))
    setup = setup_of(name, tensors)
    rows, shared = GRID[name](3)
    found = coefficients(name, setup, *rows, **shared)
    plain, compiled, runner = torch.empty(90, 111), torch.empty(90, 111), Runner(compiled=True)
    kernels.apply(found, setup.sources, plain, Runner())
    kernels.apply(found, setup.sources, compiled, runner)
    assert runner.compiled and torch.equal(plain, compiled)
