"""The equation of calibrated routers: a dense solution as the oracle, invariants, and convergence."""

import pytest
import torch
from torch import Tensor

from evomerge.routing import RouterEquation

EXPERTS, HIDDEN = 4, 6


def domain(seed: int, tokens: int = 50) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(tokens, HIDDEN, generator=generator, dtype=torch.float64)
    return inputs, torch.randn(EXPERTS, HIDDEN, generator=generator, dtype=torch.float64)


def curvature(inputs: Tensor, source: Tensor, shrinkage: float) -> Tensor:
    """The matrix [experts × hidden, experts × hidden] of one domain, token by token."""
    total = torch.zeros(EXPERTS * HIDDEN, EXPERTS * HIDDEN, dtype=torch.float64)
    for x in inputs:
        p = (source @ x).softmax(0)
        total += torch.kron(p.diag() - torch.outer(p, p), torch.outer(x, x)) / len(inputs)
    return shrinkage * total + (1 - shrinkage) * total.diag().diag()


@pytest.mark.parametrize("shrinkage", [0.5, 0.9])
def test_the_solution_is_that_of_the_dense_system(shrinkage: float) -> None:
    domains = [domain(1), domain(2, tokens=31)]
    equation = RouterEquation(shrinkage)
    for inputs, source in domains:
        equation.add(inputs, source)
    matrices = [curvature(inputs, source, shrinkage) for inputs, source in domains]
    right = sum(matrix @ source.reshape(-1) for matrix, (_, source) in zip(matrices, domains, strict=True))
    expected = torch.linalg.solve(sum(matrices), right).view(EXPERTS, HIDDEN)
    found = equation.solve(torch.zeros(EXPERTS, HIDDEN))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_one_domain_gives_back_the_weight_of_its_source() -> None:
    inputs, source = domain(3)
    equation = RouterEquation(0.9)
    equation.add(inputs, source)
    assert torch.allclose(equation.solve(torch.zeros_like(source)), source, atol=1e-4)


def test_equal_sources_are_the_solution_and_a_start_there_stays_to_the_bit() -> None:
    _, source = domain(4)
    equation = RouterEquation(0.9)
    for seed in (5, 6):
        equation.add(domain(seed)[0], source)
    assert torch.equal(equation.solve(source), source)


def test_the_number_of_tokens_of_a_domain_does_not_count() -> None:
    (few, one), (many, other) = domain(7), domain(8)
    found = []
    for copies in (1, 3):
        equation = RouterEquation(0.9)
        equation.add(few, one)
        equation.add(many.repeat(copies, 1), other)
        found.append(equation.solve(torch.zeros_like(one)))
    assert torch.allclose(*found, atol=1e-4)


def test_the_same_equation_gives_the_same_bits() -> None:
    def solve() -> Tensor:
        equation = RouterEquation(0.9)
        for seed in (9, 10):
            equation.add(*domain(seed))
        return equation.solve(torch.zeros(EXPERTS, HIDDEN))

    assert torch.equal(solve(), solve())


def test_the_calibrated_routing_is_nearer_to_the_sources_than_their_mean() -> None:
    """Two sources that decide alike where their inputs lie far apart: the divergence falls."""
    generator = torch.Generator().manual_seed(11)
    domains = []
    for half in (slice(0, 3), slice(3, 6)):  # each domain lives in half of the dimensions
        inputs = torch.randn(200, HIDDEN, generator=generator, dtype=torch.float64) * 0.1
        inputs[:, half] *= 10
        domains.append((inputs, torch.randn(EXPERTS, HIDDEN, generator=generator, dtype=torch.float64)))
    equation = RouterEquation(0.9)
    for inputs, source in domains:
        equation.add(inputs, source)
    mean = (domains[0][1] + domains[1][1]) / 2

    def divergence(weight: Tensor) -> float:
        found = 0.0
        for inputs, source in domains:
            wanted, routed = (inputs @ source.T).log_softmax(-1), (inputs @ weight.T).log_softmax(-1)
            found += float((wanted.exp() * (wanted - routed)).sum(-1).mean())
        return found

    assert divergence(equation.solve(mean)) < 0.5 * divergence(mean)
