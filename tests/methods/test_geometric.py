"""Methods that combine whole tensors by their angles and lengths, and the two that swap single elements."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge import kernels, methods
from evomerge.errors import CandidateError
from evomerge.kernels import Coefficients, Consensus, LinComb, PerRow, Runner, Sources
from evomerge.methods import _gram, _lines, arcee_fusion
from tests.methods import oracles_geometric as oracles
from tests.methods.oracles_geometric import Array
from tests.methods.recipes import random_tensors
from tests.passes import merged

SHAPES = [(1,), (11,), (13, 7), (1, 6), (6, 1), (2, 3, 5)]
WEIGHTS = [(1.0, 1.0, 1.0), (0.7, 0.4, 0.2), (0.2, 0.3, 1.5)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_weights = pytest.mark.parametrize("weights", WEIGHTS, ids=str)
with_or_without_base = pytest.mark.parametrize("has_base", [True, False], ids=["deltas", "models"])


def decided(
    name: str, tensors: Sequence[Tensor], weights: Sequence[float] = (), has_base: bool = True, **shared: Any
) -> tuple[Coefficients, Sources]:
    """A method's numbers for tensors of which the first stands as base; without a base it has the first weight."""
    method = methods.load(name)
    sources = Sources("layer.weight", tensors[0], tensors[1:])
    setup = methods.Setup(sources, methods.choose_options(name, {}), has_base=has_base)
    sources.set_prepared(method.prepare(setup))
    given = [1.0] * (len(tensors) - has_base) if not weights else list(weights)
    own = [{"weight": weight} if "weight" in method.PER_EXPERT else {} for weight in given]
    base: Mapping[str, float] = {"weight": 0.0} if has_base else own.pop(0)
    genes = methods.Genes({**dict(method.SHARED), **shared}, tuple(own), base)
    return method.coefficients(setup, genes), sources


def merge(
    name: str, tensors: Sequence[Tensor], weights: Sequence[float] = (), has_base: bool = True, **shared: Any
) -> Tensor:
    return merged(*decided(name, tensors, weights, has_base, **shared))


def arrays(tensors: Sequence[Tensor]) -> list[Array]:
    return [tensor.double().numpy() for tensor in tensors]


def close(ours: Tensor, wanted: Array, tolerance: float = 3e-6) -> None:
    assert ours.shape == wanted.shape
    assert np.allclose(ours.double().numpy(), wanted, rtol=tolerance, atol=tolerance)


def shifted(base: Tensor, *deltas: Sequence[float]) -> list[Tensor]:
    """The base and experts at these places from it; sums of small powers of two are exact."""
    return [base, *(base + torch.tensor(delta) for delta in deltas)]


ORIGIN = torch.tensor([0.5, -0.25, 1.0, 2.0])


class TestNuslerp:
    @every_shape
    @with_or_without_base
    @pytest.mark.parametrize("weights", [(0.7, 0.4), (1.0, 0.0), (0.3, -0.9), (0.5, -0.5), (2.0, 6.0)], ids=str)
    @pytest.mark.parametrize("axis", [None, -1, 0], ids=["flat", "rows", "columns"])
    def test_oracle(
        self, shape: tuple[int, ...], has_base: bool, weights: tuple[float, float], axis: int | None
    ) -> None:
        tensors = random_tensors(shape, 3)[: 2 + has_base]
        base, *experts = arrays(tensors) if has_base else [None, *arrays(tensors)]
        setting = {"nuslerp_flatten": axis is None, "nuslerp_row_wise": axis == 0}
        close(
            merge("nuslerp", tensors, weights, has_base, **setting), oracles.nuslerp(base, experts, weights, axis), 2e-5
        )

    def test_row_wise_means_nothing_of_a_whole_tensor(self) -> None:
        tensors = random_tensors((4, 5), 2)
        assert torch.equal(merge("nuslerp", tensors), merge("nuslerp", tensors, nuslerp_row_wise=True))

    def test_rows_of_a_matrix_are_a_linear_combination(self) -> None:
        found, _ = decided("nuslerp", random_tensors((4, 5), 2), nuslerp_flatten=False)
        assert isinstance(found, LinComb) and all(isinstance(weight, PerRow) for weight in found.experts)

    def test_only_the_ratio_of_the_weights_counts(self) -> None:
        tensors = random_tensors((4, 5), 2)
        assert torch.equal(merge("nuslerp", tensors, (0.25, 0.75)), merge("nuslerp", tensors, (1.0, 3.0)))

    @pytest.mark.parametrize("flat", [True, False])
    def test_one_zero_task_vector_turns_a_quarter(self, flat: bool) -> None:
        tensors = shifted(ORIGIN, (0.5, 0.25, 0.0, 1.0), (0.0,) * 4)
        wanted = ORIGIN + torch.tensor([0.5, 0.25, 0.0, 1.0]) * 2**-0.5  # not the half of a straight line
        assert torch.allclose(merge("nuslerp", tensors, nuslerp_flatten=flat), wanted)

    @pytest.mark.parametrize("flat", [True, False])
    def test_two_zero_task_vectors_are_the_base_to_the_bit(self, flat: bool) -> None:
        base = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
        assert torch.equal(merge("nuslerp", [base, base, base], (0.3, 0.5), nuslerp_flatten=flat), base)

    def test_opposite_task_vectors_lie_on_a_line(self) -> None:
        delta = (0.5, -0.25, 0.0, 1.0)
        tensors = shifted(ORIGIN, delta, tuple(-3 * x for x in delta))
        assert torch.allclose(merge("nuslerp", tensors, (0.75, 0.25)), ORIGIN)  # ¾ of δ and ¼ of −3δ

    def test_nan_stays_in_its_row_and_shows(self) -> None:
        tensors = random_tensors((4, 5), 2)
        tensors[2][1, 3] = torch.nan
        out = merge("nuslerp", tensors, nuslerp_flatten=False)
        assert out.isnan().all(dim=1).tolist() == [False, True, False, False]
        assert merge("nuslerp", tensors, (1.0, 0.0)).isnan().all()


class TestMultislerp:
    @every_shape
    @every_weights
    @with_or_without_base
    @pytest.mark.parametrize("eps", [1e-8, 1e-3])
    def test_oracle(self, shape: tuple[int, ...], weights: tuple[float, ...], has_base: bool, eps: float) -> None:
        tensors = random_tensors(shape, 3)[: 3 + has_base]
        base, *experts = arrays(tensors) if has_base else [None, *arrays(tensors)]
        ours = merge("multislerp", tensors, weights, has_base, normalize_weights=False, eps=eps)
        close(ours, oracles.multislerp(base, experts, weights, eps), 1e-5)
        shares = [weight / sum(weights) for weight in weights]
        close(
            merge("multislerp", tensors, weights, has_base, eps=eps),
            oracles.multislerp(base, experts, shares, eps),
            1e-5,
        )

    def test_a_negative_weight(self) -> None:
        tensors = random_tensors((13, 7), 3)
        base, *experts = arrays(tensors)
        ours = merge("multislerp", tensors, (0.9, -0.3, 0.5), normalize_weights=False)
        close(ours, oracles.multislerp(base, experts, (0.9, -0.3, 0.5)))

    @with_or_without_base
    def test_one_model_is_itself_whatever_its_weight(self, has_base: bool) -> None:
        tensors = random_tensors((4, 5), 1)[: 1 + has_base]
        assert torch.equal(merge("multislerp", tensors, (0.3,), has_base), tensors[-1])

    def test_two_opposite_task_vectors_are_added(self) -> None:
        tensors = shifted(ORIGIN, (0.5, 0.0, 1.0, 0.25), (-1.0, 0.0, -2.0, -0.5))
        wanted = ORIGIN + torch.tensor([-0.25, 0.0, -0.5, -0.125])
        assert torch.allclose(merge("multislerp", tensors, (0.5, 0.5)), wanted)

    def test_three_that_cancel_are_a_failed_candidate(self) -> None:
        tensors = shifted(ORIGIN, (1.0, 0.0, 0.0, 0.0), (-2.0, 0.0, 0.0, 0.0), (0.0,) * 4)
        with pytest.raises(CandidateError, match=r"layer\.weight: the weighted directions cancel"):
            merge("multislerp", tensors, (0.5, 0.5, 0.5))

    def test_weights_that_sum_to_nothing(self) -> None:
        with pytest.raises(CandidateError, match="weights sum to 0"):
            merge("multislerp", random_tensors((4,), 3), (0.5, -0.5, 0.0))

    def test_a_tensor_that_no_expert_touched_is_the_base(self) -> None:
        base = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
        assert torch.equal(merge("multislerp", [base] * 4), base)

    def test_eps_zero_and_a_zero_task_vector(self) -> None:
        tensors = shifted(ORIGIN, (1.0, 0.0, 0.0, 0.0), (0.0,) * 4, (0.0,) * 4)
        assert torch.allclose(merge("multislerp", tensors, eps=0.0), merge("multislerp", tensors))


class TestKarcher:
    @every_shape
    @pytest.mark.parametrize("steps", [0, 1, 10])
    def test_every_model_counts_alike_as_in_mergekit(self, shape: tuple[int, ...], steps: int) -> None:
        tensors = [tensor.flip(0) * (i + 1) for i, tensor in enumerate(random_tensors(shape, 3))]
        base, *experts = arrays(tensors)
        named = merge("karcher", tensors, max_iter=steps)
        close(named, oracles.karcher([*experts, base], [1.0] * 4, steps), 1e-5)
        close(
            merge("karcher", tensors, has_base=False, max_iter=steps),
            oracles.karcher([base, *experts], [1.0] * 4, steps),
            1e-5,
        )

    @every_shape
    @every_weights
    @pytest.mark.parametrize("own", [0.0, 0.8])
    def test_weighted(self, shape: tuple[int, ...], weights: tuple[float, ...], own: float) -> None:
        tensors = random_tensors(shape, 3)
        base, *experts = arrays(tensors)
        wanted = oracles.karcher([*experts, base], [*weights, own])
        close(merge("karcher", tensors, weights, base_model_weight=own), wanted, 1e-5)

    def test_two_models_are_slerp_between_their_directions(self) -> None:
        tensors = [torch.zeros(3), torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 4.0, 0.0])]
        angle = np.pi / 2 * 0.3
        wanted = (0.7 * 2 + 0.3 * 4) * np.array([np.cos(angle), np.sin(angle), 0.0])
        close(merge("karcher", tensors, (0.7, 0.3), base_model_weight=0.0), wanted)

    def test_a_fixed_point_has_no_pull(self) -> None:
        models = arrays(torch.randn(4, 30, generator=torch.Generator().manual_seed(5)).unbind())
        units = np.stack([x / np.linalg.norm(x) for x in models])
        weights = np.array([0.4, 0.3, 0.2, 0.1])
        mean = methods.load("karcher").on_sphere(units @ units.T, weights, 200, 1e-7) @ units  # type: ignore[attr-defined]
        cosine = units @ mean
        pull = (weights * np.arccos(cosine) / np.sqrt(1 - cosine**2)) @ (units - cosine[:, None] * mean)
        assert np.linalg.norm(mean) == pytest.approx(1.0) and np.linalg.norm(pull) < 1e-6

    def test_a_model_no_longer_than_tol_shortens_only(self) -> None:
        long, short = torch.tensor([3.0, 4.0, 0.0]), torch.tensor([0.0, 0.0, 1e-6])
        assert torch.allclose(merge("karcher", [long, short], has_base=False), long / 2, atol=1e-6)
        assert torch.equal(merge("karcher", [short, short / 2], has_base=False), torch.zeros(3))

    def test_opposite_models_fall_back_to_the_first(self) -> None:
        model = torch.tensor([3.0, -4.0, 0.0])
        assert torch.allclose(merge("karcher", [model, -3 * model], has_base=False), 2 * model)

    def test_nobody_leaves_the_base(self) -> None:
        tensors = random_tensors((4, 5), 3)
        assert torch.equal(merge("karcher", tensors, (0.0, 0.0, 0.0), base_model_weight=0.0), tensors[0])

    def test_refusals(self) -> None:
        tensors = random_tensors((4, 5), 3)
        with pytest.raises(CandidateError, match="negative"):
            merge("karcher", tensors, (0.5, -0.1, 0.2))
        with pytest.raises(CandidateError, match="weights need a base_model"):
            merge("karcher", tensors, (1.0, 0.5, 0.2, 0.3), has_base=False)
        with pytest.raises(CandidateError, match=r"max_iter 2\.5 is not a whole number"):
            merge("karcher", tensors, max_iter=2.5)

    def test_a_broken_model_that_takes_part_shows(self) -> None:
        tensors = random_tensors((4, 5), 2)
        tensors[1][0, 0] = torch.nan
        assert merge("karcher", tensors).isnan().all()
        assert torch.equal(merge("karcher", tensors, (0.0, 1.0), base_model_weight=0.0), tensors[2])


class TestModelStock:
    @pytest.mark.parametrize("shape", [(1,), (11,), (13, 7), (1, 6), (2, 3, 5)], ids=str)
    @pytest.mark.parametrize("count", [2, 3])
    @pytest.mark.parametrize("by_row", [False, True])
    @pytest.mark.parametrize("lam", [1.0, 0.6])
    def test_oracle(self, shape: tuple[int, ...], count: int, by_row: bool, lam: float) -> None:
        base, *experts = random_tensors(shape, count)
        common = torch.randn(shape, generator=torch.Generator().manual_seed(8))  # so that no row is near the pole
        tensors = [base, *(expert + 0.3 * common for expert in experts)]
        ours = merge("model_stock", tensors, filter_wise=by_row, **{"lambda": lam})
        close(ours, oracles.model_stock(*_split(tensors), by_row, lam), 2e-5)

    def test_identical_experts_are_met(self) -> None:
        base, expert = random_tensors((4, 5), 1)
        assert torch.allclose(merge("model_stock", [base, expert, expert]), expert)

    def test_orthogonal_experts_leave_the_base(self) -> None:
        assert torch.equal(merge("model_stock", shifted(ORIGIN, (1.0, 0, 0, 0), (0, 2.0, 0, 0))), ORIGIN)

    def test_short_task_vectors_count_as_less_alike(self) -> None:
        base = torch.zeros(4)
        expert = torch.tensor([1e-4, 0.0, 0.0, 0.0])
        cosine = 1e-8 / 1e-6
        wanted = 2 * cosine / (1 + cosine) * expert
        assert torch.allclose(merge("model_stock", [base, expert, expert]), wanted)

    def test_the_pole_is_the_base_and_its_ring_is_refused(self) -> None:
        at = shifted(ORIGIN, (1.0, 0, 0, 0), (-2.0, 0, 0, 0))
        assert torch.equal(merge("model_stock", at), ORIGIN)
        near = shifted(ORIGIN, (1.0, 0, 0, 0), (-2.0, 0.03125, 0, 0))
        with pytest.raises(CandidateError, match=r"layer\.weight: the experts are opposed"):
            merge("model_stock", near)
        assert torch.equal(merge("model_stock", near, **{"lambda": 0.0}), ORIGIN)

    def test_nan_stays_in_its_row_and_shows(self) -> None:
        tensors = random_tensors((4, 5), 2)
        tensors[1][2, 0] = torch.inf
        assert merge("model_stock", tensors).isnan().all()
        common = torch.randn(4, 5, generator=torch.Generator().manual_seed(8))
        out = merge("model_stock", [tensors[0], tensors[1] + common, tensors[2] + common], filter_wise=True)
        assert out.isnan().any(dim=1).tolist() == [False, False, True, False]


class TestGeometricMedian:
    @every_shape
    @pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 0.9), (0.4, 0.2, 0.25, 0.15), (0.6, 0.1, 0.2, 0.1)], ids=str)
    @pytest.mark.parametrize("lam", [1.0, 0.6])
    def test_oracle(self, shape: tuple[int, ...], weights: tuple[float, ...], lam: float) -> None:
        tensors = random_tensors(shape, 4)
        base, experts = _split(tensors)
        wanted = base + lam * oracles.geometric_median([expert - base for expert in experts], weights)
        close(merge("geometric_median", tensors, weights, **{"lambda": lam}), wanted)

    @pytest.mark.parametrize("seed", range(5))
    def test_no_point_near_it_is_nearer(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        deltas = [torch.randn(6, generator=generator) * (i + 1) for i in range(4)]
        weights = (0.3, 0.3, 0.25, 0.15)
        found = merge("geometric_median", [torch.zeros(6), *deltas], weights)
        best = oracles.total_distance(arrays(deltas), weights, found.double().numpy())
        for _ in range(50):
            other = found + 1e-2 * torch.randn(6, generator=generator)
            assert oracles.total_distance(arrays(deltas), weights, other.double().numpy()) >= best

    def test_numbers_have_their_ordinary_median(self) -> None:
        tensors = [torch.tensor([x]) for x in (0.0, 5.0, -1.0, 0.5)]
        assert torch.equal(merge("geometric_median", tensors), torch.tensor([0.5]))

    def test_half_of_the_weight_is_the_median(self) -> None:
        tensors = random_tensors((4, 5), 3)
        assert torch.equal(merge("geometric_median", tensors, (0.25, 0.5, 0.25)), tensors[2])
        assert torch.equal(merge("geometric_median", [*tensors, tensors[3]]), tensors[3])  # two that are one

    def test_an_outlier_does_not_pull_it_away(self) -> None:
        deltas = [torch.tensor(x) for x in ((1.0, 0.1), (1.0, -0.1), (1.1, 0.0), (1e6, 1e6))]
        found = merge("geometric_median", [torch.zeros(2), *deltas])
        assert (found - torch.tensor([1.0, 0.0])).norm() < 0.5

    def test_a_start_on_an_expert_moves_on(self) -> None:
        """The mean is the zero task vector, at which Weiszfeld's own iteration stays for ever."""
        deltas = [(0.0, 0.0), (4.0, 0.0), (-2.0, 3.0), (-2.0, -3.0)]
        weights = (0.01, 0.33, 0.33, 0.33)
        found = merge("geometric_median", [torch.zeros(2), *map(torch.tensor, deltas)], weights)
        close(found, oracles.geometric_median([np.array(delta) for delta in deltas], weights))
        assert found.norm() > 0.1

    def test_task_vectors_of_zero_are_the_base(self) -> None:
        base = random_tensors((4, 5), 1)[0]
        assert torch.equal(merge("geometric_median", [base] * 4, (0.3, 0.3, 0.3)), base)
        tensors = random_tensors((4, 5), 3)
        assert torch.equal(merge("geometric_median", tensors, (0.0, 0.0, 0.0)), tensors[0])

    def test_a_negative_weight_is_refused(self) -> None:
        with pytest.raises(CandidateError, match="negative"):
            merge("geometric_median", random_tensors((4,), 2), (0.5, -0.1))

    def test_a_broken_expert_that_takes_part_shows(self) -> None:
        tensors = random_tensors((4, 5), 3)
        tensors[1][0, 0] = torch.inf
        assert merge("geometric_median", tensors).isnan().all()
        assert torch.isfinite(merge("geometric_median", tensors, (0.0, 0.5, 0.5))).all()


class TestNearswap:
    @every_shape
    @pytest.mark.parametrize("t", [0.0, -1.0, 1e-8, 3e-7, 1e-3, 0.05, 0.2, 5.0])
    @pytest.mark.parametrize("scale", [1.0, 1e-6])
    def test_oracle(self, shape: tuple[int, ...], t: float, scale: float) -> None:
        base, expert = (tensor * scale for tensor in random_tensors(shape, 1))
        ours = merge("nearswap", [base, expert], t=t).double().numpy()
        wanted = oracles.nearswap(*arrays([base, expert]), t)
        assert np.abs(ours - wanted).max() <= 3e-7 * max(np.abs(wanted).max(), scale)

    def test_nothing_moves_further_than_t(self) -> None:
        base, expert = random_tensors((40, 30), 1)
        assert (merge("nearswap", [base, expert], t=0.03) - base).abs().max() <= 0.03 + 1e-6

    def test_the_largest_difference_is_the_whole_expert_to_the_bit(self) -> None:
        base, expert = random_tensors((40, 30), 1)
        largest = float((expert - base).abs().max())
        assert torch.equal(merge("nearswap", [base, expert], t=largest), expert)
        assert isinstance(decided("nearswap", [base, expert], t=largest * 0.999)[0], Consensus)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    def test_a_broken_element_shows(self, value: float) -> None:
        base, expert = random_tensors((4, 5), 1)
        expert[1, 2] = value
        for t in (1e-7, 0.01, 100.0):
            assert (~merge("nearswap", [base, expert], t=t).isfinite()).sum() == 1


class TestArceeFusion:
    @every_shape
    @pytest.mark.parametrize("scale", [1.0, 0.01])
    @pytest.mark.parametrize("lam", [1.0, 0.4])
    def test_oracle(self, shape: tuple[int, ...], scale: float, lam: float) -> None:
        base, expert = random_tensors(shape, 1)
        expert = base + scale * (expert - base)
        keep = oracles.arcee_keep(*arrays([base, expert]))
        wanted = base + lam * torch.from_numpy(keep) * (expert - base)
        assert torch.allclose(merge("arcee_fusion", [base, expert], **{"lambda": lam}), wanted, atol=1e-6)

    def test_larger_than_a_tile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arcee_fusion, "TILE", 64)
        monkeypatch.setattr(arcee_fusion, "BLOCK", 8)
        base, expert = random_tensors((50, 21), 1)
        setup = methods.Setup(Sources("layer.weight", base, [expert]))
        found = arcee_fusion.prepare(setup)
        assert np.array_equal(found["bank.keep"].numpy(), oracles.arcee_keep(*arrays([base, expert])))
        assert 0 < int(found["kept"]) < base.numel()

    def test_what_is_not_kept_is_the_base_to_the_bit(self) -> None:
        base, expert = random_tensors((40, 30), 1)
        keep = torch.from_numpy(oracles.arcee_keep(*arrays([base, expert])))
        out = merge("arcee_fusion", [base, expert])
        assert torch.equal(out[~keep], base[~keep]) and keep.any() and not keep.all()

    def test_a_sparse_difference_is_taken_over_whole(self) -> None:
        """Where three quarters of the importances are zero the threshold is zero, as in mergekit."""
        base, expert = random_tensors((40, 30), 1)
        expert[2:] = base[2:]
        assert torch.equal(merge("arcee_fusion", [base, expert]), expert)

    def test_a_broken_element_shows(self) -> None:
        base, expert = random_tensors((40, 30), 1)
        expert[3, 4], expert[7, 1] = torch.nan, torch.inf
        assert (~merge("arcee_fusion", [base, expert]).isfinite()).nonzero().tolist() == [[3, 4], [7, 1]]


def _split(tensors: Sequence[Tensor]) -> tuple[Array, list[Array]]:
    base, *experts = arrays(tensors)
    return base, experts


GEOMETRIC: dict[str, dict[str, Any]] = {
    "nuslerp": {},
    "multislerp": {},
    "karcher": {},
    "model_stock": {},
    "geometric_median": {},
    "nearswap": {"t": 0.03},
    "arcee_fusion": {},
}


@pytest.mark.parametrize("name", GEOMETRIC)
def test_a_candidate_reads_no_weight(name: str) -> None:
    method = methods.load(name)
    sources = Sources("layer.weight", *_parted(random_tensors((9, 4), min(2, method.EXPERTS[1]))))
    setup = methods.Setup(sources)
    sources.set_prepared(method.prepare(setup))
    own: dict[str, float] = {"weight": 0.5} if "weight" in method.PER_EXPERT else {}
    genes = methods.Genes({**method.SHARED, **GEOMETRIC[name]}, (own,) * len(sources), {"weight": 0.0})
    wanted = method.coefficients(setup, genes)
    gone = torch.empty(9, 4, device="meta")  # to read it is an error
    sources._base, sources._updates = gone, (gone,) * len(sources)
    assert method.coefficients(setup, genes) == wanted


@pytest.mark.parametrize("name", ["nuslerp", "model_stock"])
def test_lines_are_read_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    read = _lines.products_along
    monkeypatch.setattr(_lines, "products_along", lambda *given: calls.append(given[1]) or read(*given))
    method = methods.load(name)
    sources = Sources("layer.weight", *_parted(random_tensors((9, 4), 2)))
    setup = methods.Setup(sources)
    sources.set_prepared(method.prepare(setup))
    shared = {**method.SHARED, "nuslerp_flatten": False, "filter_wise": True}
    for weight in (0.5, 0.25, 0.5):
        method.coefficients(setup, methods.Genes(shared, ({"weight": weight}, {"weight": 1.0}), {"weight": 0.0}))
    assert calls == ["last"]


@pytest.mark.parametrize("width", [1, 100, _gram.BLOCK, _gram.BLOCK + 1, 3 * _gram.BLOCK + 5])
def test_inner_products(width: int) -> None:
    tensors = [torch.randn(width, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    stacked = np.stack(arrays(tensors))
    assert np.allclose(_gram.products(tensors).numpy(), stacked @ stacked.T, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("along", ["last", "first"])
def test_inner_products_of_lines_in_tiles(along: _lines.Along, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gram, "BLOCK", 4)
    monkeypatch.setattr(_gram, "TILE", 16)
    tensors = random_tensors((7, 3, 10), 1)
    stacked = np.stack(arrays(tensors))
    wanted = np.einsum("iabc,jabc->abij" if along == "last" else "iabc,jabc->bcij", stacked, stacked)
    assert np.allclose(_lines.products_along(tensors, along), wanted.reshape(-1, 2, 2))


@pytest.mark.parametrize("along", ["last", "first"])
@pytest.mark.parametrize("shape", [(600, 130), (3, 90_000)], ids=str)
def test_inner_products_of_lines_do_not_depend_on_threads(along: _lines.Along, shape: tuple[int, int]) -> None:
    tensors = random_tensors(shape, 1)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append((_lines.products_along(tensors, along), _gram.products(tensors).numpy()))
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(one, two) for one, two in zip(*found, strict=True))


RULES: dict[str, Callable[[list[Tensor]], tuple[Coefficients, Sources]]] = {
    "lines along the last axis": lambda x: decided("nuslerp", x, (0.3, 0.4), nuslerp_flatten=False),
    "columns": lambda x: decided("nuslerp", x, (0.3, 0.4), nuslerp_flatten=False, nuslerp_row_wise=True),
    "columns of models": lambda x: decided(
        "nuslerp", x[:2], (0.3, 0.4), has_base=False, nuslerp_flatten=False, nuslerp_row_wise=True
    ),
    "nearswap": lambda x: decided("nearswap", x[:2], t=0.03),
    "arcee_fusion": lambda x: decided("arcee_fusion", x[:2], **{"lambda": 0.7}),
}


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_rules_give_the_same_bits(rule: str, dtype: torch.dtype) -> None:
    found, sources = RULES[rule](random_tensors((5, 40, 33), 2, dtype))
    assert isinstance(found, Consensus)
    out = [torch.empty(sources.shape, dtype=dtype) for _ in range(2)]
    runner = Runner(compiled=True)
    kernels.apply(found, sources, out[0], runner)
    kernels.apply(found, sources, out[1], Runner())
    assert runner.compiled and torch.equal(*out)


@pytest.mark.parametrize("along", ["last", "first"])
def test_lines_of_a_block_that_does_not_start_at_zero(along: _lines.Along, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = Sources("layer.weight", *_parted(random_tensors((5, 4, 3), 2)))
    lines = 20 if along == "last" else 12
    numbers = np.linspace(0.1, 0.9, lines)
    coefficients = _lines.combine(sources, along, 1 - numbers, [numbers / 4, numbers * 0.75])
    whole = merged(coefficients, sources)
    monkeypatch.setattr("evomerge.kernels.runner.BLOCK", {"cpu": 7})
    assert torch.equal(merged(coefficients, sources), whole)
    share = (
        torch.from_numpy(numbers).float().view(5, 4, 1)
        if along == "last"
        else torch.from_numpy(numbers).float().view(4, 3)
    )
    base, first, second = sources.base, sources.expert(0), sources.expert(1)
    assert torch.allclose(whole, base + share / 4 * (first - base) + share * 0.75 * (second - base), atol=1e-6)


def _parted(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    return tensors[0], list(tensors[1:])


@pytest.mark.parametrize("name", ["model_stock", "geometric_median"])
@pytest.mark.parametrize("count", [3, 9])
def test_the_base_has_the_rest_exactly(name: str, count: int) -> None:
    """So that the coefficients are weights of task arithmetic."""
    found, _ = decided(name, random_tensors((13, 7), count), **{"lambda": 0.7})
    assert isinstance(found, LinComb)
    assert found.base == 1.0 - sum(weight for weight in found.experts if isinstance(weight, float))


@pytest.mark.parametrize("name", GEOMETRIC)
def test_a_number_without_an_axis(name: str) -> None:
    tensors = [torch.tensor(x) for x in (1.0, 1.5, 1.25)][: 1 + min(2, methods.load(name).EXPERTS[1])]
    out = merge(name, tensors, **GEOMETRIC[name])
    assert out.shape == () and 1.0 <= float(out) <= 1.5
