"""Methods that only papers have and that choose element by element or go along a line, against their formulas."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge import kernels
from evomerge.errors import CandidateError
from evomerge.kernels import Block, Consensus, LinComb, Runner, Sources
from evomerge.merging.materializer import Materializer
from evomerge.methods import consensus_ta, emr_elect, magmax, mod
from tests.families import Folders
from tests.methods import oracles_papers as oracles
from tests.methods.paper_cases import SHAPES, close, family, off_base, run
from tests.methods.recipes import random_tensors, some
from tests.passes import merged

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@every_shape
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("name", ["magmax", "emr_elect"])
def test_picked_changes(name: str, shape: tuple[int, ...], count: int) -> None:
    tensors, base, deltas = family(shape, count)
    picked = {"magmax": oracles.magmax, "emr_elect": oracles.emr_elect}[name](deltas)
    close(run(name, tensors[0], tensors[1:], **{"lambda": 0.7}), base + 0.7 * picked)


def test_of_equal_magnitudes_the_last_expert_wins() -> None:
    base, experts = off_base([np.array([1.0, -2.0, 0.0]), np.array([-1.0, 2.0, 0.0]), np.array([1.0, -1.0, 0.0])])
    assert run("magmax", base, experts, **{"lambda": 1.0}).tolist() == [1.0, 2.0, 0.0]


def test_a_zero_sum_elects_minus() -> None:
    base, experts = off_base([np.array([2.0, 0.0]), np.array([-2.0, 0.0])])
    assert run("emr_elect", base, experts).tolist() == [-2.0, 0.0]


def test_two_experts_elect_the_larger_change() -> None:
    tensors, _, _ = family((13, 7), 2)
    found = [run(name, tensors[0], tensors[1:], **{"lambda": 0.8}) for name in ("magmax", "emr_elect")]
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["magmax", "emr_elect"])
def test_one_expert_or_equal_ones_are_that_expert(name: str) -> None:
    tensors, _, _ = family((13, 7), 1)
    far = tensors[0] * 1e8  # where base + (expert − base) loses the expert's digits
    assert torch.equal(run(name, far, tensors[1:], **{"lambda": 1.0}), tensors[1])
    assert torch.allclose(run(name, tensors[0], [tensors[1]] * 3, **{"lambda": 1.0}), tensors[1], atol=1e-6)


@every_shape
@pytest.mark.parametrize("k", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("kappas", [[0.4, 0.4, 0.4], [0.2, 0.6, 0.3], [0.0, 5.0, 1.0]], ids=str)
def test_consensus_ta(shape: tuple[int, ...], k: float, kappas: list[float]) -> None:
    tensors, base, deltas = family(shape)
    wanted = base + 0.6 * oracles.consensus_ta(deltas, kappas, k)
    close(run("consensus_ta", tensors[0], tensors[1:], kappa=kappas, alpha=0.6, k=k), wanted)


@pytest.mark.parametrize(("kappa", "kept"), [(0.3, 4.0), (1 / 3, 0.0), (0.4, 0.0)])
def test_experts_that_agree_need_nothing_of_each_other(kappa: float, kept: float) -> None:
    base, experts = off_base([np.array([1.0, -0.5])] * 4)  # each is a third of what the others add
    assert run("consensus_ta", base, experts, kappa=kappa, alpha=1.0).tolist() == [kept, -0.5 * kept]


def test_more_agreement_than_experts_is_refused() -> None:
    tensors, _, _ = family((5,), 2)
    with pytest.raises(CandidateError, match="k=3 of 2 experts agree on nothing; lower k or add experts"):
        run("consensus_ta", tensors[0], tensors[1:], kappa=0.4, alpha=1.0, k=3.0)


@every_shape
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9, 0.999])
def test_mod(shape: tuple[int, ...], threshold: float) -> None:
    tensors, base, _ = family(shape, 1)
    wanted = oracles.mod(base, tensors[1].double().numpy(), threshold)
    close(run("mod", tensors[0], tensors[1:], threshold=threshold), wanted)


def test_mod_takes_the_largest_element_from_the_expert_below_one_and_not_at_one() -> None:
    base, expert = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([7.0, 8.0, 9.0])
    assert run("mod", base, [expert], threshold=0.999).tolist() == [0.0, 0.5, 9.0]
    assert run("mod", base, [expert], threshold=0.5).tolist() == [0.0, 8.0, 9.0]  # at the bound is not below it
    assert torch.equal(run("mod", base, [expert], threshold=1.0), base)


def test_mod_leaves_a_constant_tensor_and_whatever_is_no_mlp() -> None:
    base, expert = random_tensors((5, 4), 1)
    constant = torch.full_like(base, 0.1)
    assert torch.equal(run("mod", constant, [expert], threshold=0.3), constant)
    attention = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(run("mod", base, [expert], tensor=attention, threshold=0.3), base)
    assert not torch.equal(run("mod", base, [expert], {"tensors": "all"}, tensor=attention, threshold=0.3), base)


RULES = [
    (magmax.largest, (0.7,), 3),
    (emr_elect.elected, (0.7,), 3),
    (consensus_ta.agreed, (0.7, 2.0, 0.3, 0.4, 0.5), 3),
    (mod.below, (0.2,), 1),
]


@pytest.mark.parametrize(("rule", "numbers", "count"), RULES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_broken_element_stays_one(
    rule: Callable[[Block], Tensor], numbers: tuple[float, ...], count: int, value: float
) -> None:
    for place in range(count):
        for element in range(16):
            base, *experts = random_tensors((16,), count)
            experts[place][element] = value
            out = merged(Consensus(rule, numbers), Sources("w", base, experts))
            assert (~out.isfinite()).nonzero().flatten().tolist() == [element]


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "numbers", "count"), RULES)
def test_compiled_rules_give_the_same_bits(
    rule: Callable[[Block], Tensor], numbers: tuple[float, ...], count: int
) -> None:
    base, *experts = random_tensors((123, 77), count, torch.bfloat16)
    sources, runner = Sources("w", base, experts), Runner(compiled=True)
    out = torch.empty(base.shape)
    kernels.apply(Consensus(rule, numbers), sources, out, runner)
    assert runner.compiled, "the compiler gave up"
    assert torch.equal(out, merged(Consensus(rule, numbers), sources))


@pytest.mark.parametrize(("depth", "scale"), [(None, 0.2), (0.0, 0.2), (0.25, 0.4), (1.0, 1.0)])
def test_lines_scales_by_depth(depth: float | None, scale: float) -> None:
    tensors, base, deltas = family((13, 7))
    close(run("lines", tensors[0], tensors[1:], depth=depth, alpha=0.2, beta=0.8), base + scale * sum(deltas))


def test_lines_gives_tensors_outside_the_layers_alpha(
    open_family: Callable[..., tuple[Folders, Materializer]],
) -> None:
    folders, materializer = open_family()
    found = {
        part.name: part.coefficients for part in materializer.tensor_merges(some("lines", folders, alpha=0.2, beta=0.8))
    }
    scales = {name: c.experts[0] for name, c in found.items() if isinstance(c, LinComb)}
    assert {scales[name] for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")} == {0.2}
    layers = [scales[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(3)]
    assert layers == pytest.approx([0.2, 0.6, 1.0])


def test_expo_goes_on_from_the_expert() -> None:
    tensors, base, deltas = family((13, 7), 1)
    for alpha in (-0.5, 0.3, 1.0):
        close(run("expo", tensors[0], tensors[1:], alpha=alpha), base + (1 + alpha) * deltas[0])
    assert torch.equal(run("expo", tensors[0], tensors[1:], alpha=0.0), tensors[1])
    assert torch.equal(run("expo", tensors[0], tensors[1:], alpha=-1.0), tensors[0])
