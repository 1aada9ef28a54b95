"""Each method against its formula, written out in float64 numpy from the papers (and mergekit's documented choices)."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evomerge.kernels import Sources
from evomerge.methods import Genes, Setup, slerp
from tests.methods.oracles_sparsifiers import uniforms
from tests.methods.recipes import merge, random_tensors

Array = NDArray[np.float64]
SHAPES = [(1,), (11,), (13, 7)]
WEIGHTS = [(0.7, 0.4, 0.2), (1.0, 1.0, 1.0), (0.9, -0.3, 0.5), (1.3, 0.0, 0.6)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_weights = pytest.mark.parametrize("weights", WEIGHTS, ids=str)


def family(shape: tuple[int, ...]) -> tuple[list[torch.Tensor], Array, list[Array]]:
    tensors = random_tensors(shape, 3)
    base, *experts = [tensor.double().numpy() for tensor in tensors]
    return tensors, base, experts


def close(ours: torch.Tensor, wanted: Array) -> None:
    assert np.allclose(ours.double().numpy(), wanted, rtol=2e-6, atol=2e-6)


def sign_of(total: float) -> float:
    return 1.0 if total >= 0 else -1.0


def agreeing(deltas: Sequence[Array], weights: Sequence[float], *, unweighted: bool, count: bool, mean: bool) -> Array:
    """Sign election and average, one element at a time (TIES, §3, steps 2 and 3)."""
    flat = [delta.ravel() for delta in deltas]
    out = np.zeros(flat[0].size)
    for j in range(out.size):
        votes = [delta[j] if unweighted else weight * delta[j] for weight, delta in zip(weights, flat, strict=True)]
        elected = sign_of(sum(votes))
        members = [i for i, vote in enumerate(votes) if vote != 0 and sign_of(vote) == elected]
        total = sum(weights[i] * flat[i][j] for i in members)
        divisor = float(len(members)) if count else sum(weights[i] for i in members)
        out[j] = total / (divisor or 1.0) if mean else total
    return out.reshape(deltas[0].shape)


def largest(delta: Array, density: float) -> Array:
    """The int(d·n) largest magnitudes, at least one."""
    keep = max(1, int(density * delta.size))
    order = np.argsort(-np.abs(delta.ravel()), kind="stable")
    out = np.zeros(delta.size)
    out[order[:keep]] = delta.ravel()[order[:keep]]
    return out.reshape(delta.shape)


@every_shape
@every_weights
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("base_weight", [0.0, 0.5])
def test_linear(shape: tuple[int, ...], weights: tuple[float, ...], normalize: bool, base_weight: float) -> None:
    tensors, base, experts = family(shape)
    wanted = base_weight * base + sum(w * x for w, x in zip(weights, experts, strict=True))
    wanted = wanted / (base_weight + sum(weights)) if normalize else wanted
    close(merge("linear", tensors[0], tensors[1:], weights, base_weight, normalize=normalize), wanted)


@every_shape
@every_weights
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("lam", [1.0, 0.6])
def test_task_arithmetic(shape: tuple[int, ...], weights: tuple[float, ...], normalize: bool, lam: float) -> None:
    tensors, base, experts = family(shape)
    update = sum(w * (x - base) for w, x in zip(weights, experts, strict=True))
    wanted = base + lam * update / (sum(weights) if normalize else 1.0)
    ours = merge("task_arithmetic", tensors[0], tensors[1:], weights, **{"normalize": normalize, "lambda": lam})
    close(ours, wanted)


@every_shape
@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("mix", [0.0, 0.5, 0.9999, -0.5, -0.99999])
def test_slerp(shape: tuple[int, ...], t: float, mix: float) -> None:
    tensors, base, _ = family(shape)
    other = mix * tensors[0] + (1 - abs(mix)) * tensors[1].flip(0) * 3
    expert = other.double().numpy()
    cosine = float((base * expert).sum() / np.linalg.norm(base) / np.linalg.norm(expert))
    if abs(cosine) > 0.9995:
        wanted = (1 - t) * base + t * expert
    else:
        angle = math.acos(cosine)
        wanted = (math.sin((1 - t) * angle) * base + math.sin(t * angle) * expert) / math.sin(angle)
    close(merge("slerp", tensors[0], [other], t=t), wanted)


def test_slerp_keeps_the_norm_of_vectors_of_one_norm() -> None:
    first, second = torch.eye(8)[0], torch.eye(8)[1]
    for t in (0.1, 0.5, 0.8):
        assert merge("slerp", first, [second], t=t).norm().item() == pytest.approx(1.0, abs=1e-6)


@every_shape
@every_weights
@pytest.mark.parametrize("densities", [(1.0, 1.0, 1.0), (0.2, 0.2, 0.2), (0.9, 0.5, 0.1)], ids=str)
@pytest.mark.parametrize("normalize", [True, False])
def test_ties(
    shape: tuple[int, ...], weights: tuple[float, ...], densities: tuple[float, ...], normalize: bool
) -> None:
    tensors, base, experts = family(shape)
    deltas = [largest(x - base, d) for x, d in zip(experts, densities, strict=True)]
    wanted = base + 0.8 * agreeing(deltas, weights, unweighted=False, count=False, mean=normalize)
    values = {"normalize": normalize, "lambda": 0.8}
    close(merge("ties", tensors[0], tensors[1:], weights, densities=densities, **values), wanted)


@every_weights
@pytest.mark.parametrize("sign", ["weighted", "unweighted"])
@pytest.mark.parametrize("divisor", ["weights", "count"])
def test_ties_of_the_paper(weights: tuple[float, ...], sign: str, divisor: str) -> None:
    tensors, base, experts = family((13, 7))
    deltas = [largest(x - base, 0.4) for x in experts]
    unweighted, count = sign == "unweighted", divisor == "count"
    wanted = base + agreeing(deltas, weights, unweighted=unweighted, count=count, mean=True)
    options = {"sign": sign, "divisor": divisor}
    close(merge("ties", tensors[0], tensors[1:], weights, densities=(0.4,) * 3, options=options), wanted)


def test_ties_rescales_to_the_l1_norm() -> None:
    tensors, base, experts = family((13, 7))
    deltas = [x - base for x in experts]
    kept = [largest(delta, 0.3) for delta in deltas]
    kept = [k * np.abs(d).sum() / np.abs(k).sum() for k, d in zip(kept, deltas, strict=True)]
    wanted = base + agreeing(kept, (0.7, 0.4, 0.2), unweighted=False, count=False, mean=True)
    close(merge("ties", tensors[0], tensors[1:], densities=(0.3,) * 3, rescale=True), wanted)


def kept(shape: tuple[int, ...], expert: int, density: float, seed: int = 3, tensor: str = "layer.weight") -> Array:
    return (uniforms(math.prod(shape), seed, tensor, expert) < density).reshape(shape)


def l1(delta: Array, masked: Array, density: float) -> Array:
    norm = np.abs(masked).sum()
    return masked * (np.abs(delta).sum() / norm) if norm > 1e-7 else masked


def inverse(delta: Array, masked: Array, density: float) -> Array:
    return masked if density == 1 else masked / density


def plain(delta: Array, masked: Array, density: float) -> Array:
    return masked


@every_shape
@every_weights
@pytest.mark.parametrize("rescale", [l1, inverse, plain])
@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("normalize", [True, False])
def test_dare(
    shape: tuple[int, ...], weights: tuple[float, ...], rescale: Callable[..., Array], name: str, normalize: bool
) -> None:
    tensors, base, experts = family(shape)
    densities = (0.5, 0.8, 1.0)
    deltas = []
    for i, (x, density) in enumerate(zip(experts, densities, strict=True)):
        deltas.append(rescale(x - base, (x - base) * kept(shape, i, density), density))
    if name == "dare_ties":
        update = agreeing(deltas, weights, unweighted=False, count=False, mean=normalize)
    else:
        update = sum(w * d for w, d in zip(weights, deltas, strict=True)) / (sum(weights) if normalize else 1.0)
    options = {"rescale_by": "inv_density"} if rescale is inverse else {}
    values = {"normalize": normalize, "lambda": 0.7, "rescale": rescale is not plain}
    ours = merge(name, tensors[0], tensors[1:], weights, densities=densities, options=options, **values)
    close(ours, base + 0.7 * update)


@pytest.mark.parametrize("sign", ["weighted", "unweighted"])
@pytest.mark.parametrize("divisor", ["weights", "count"])
def test_dare_ties_variants(sign: str, divisor: str) -> None:
    tensors, base, experts = family((13, 7))
    weights = (0.9, -0.3, 0.5)
    deltas = [(x - base) * kept((13, 7), i, 0.6) for i, x in enumerate(experts)]
    update = agreeing(deltas, weights, unweighted=sign == "unweighted", count=divisor == "count", mean=True)
    options = {"sign": sign, "divisor": divisor}
    values = {"normalize": True, "rescale": False}
    close(
        merge("dare_ties", tensors[0], tensors[1:], weights, densities=(0.6,) * 3, options=options, **values),
        base + update,
    )


def test_another_seed_is_another_mask_and_only_then() -> None:
    base, *experts = random_tensors((50, 20), 2)
    one, same, other = (merge("dare_linear", base, experts, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert not torch.equal(one, merge("dare_linear", base, experts, tensor="elsewhere.weight"))


@pytest.mark.parametrize(("cosine", "arc"), [(0.9994, True), (0.9996, False), (-0.9994, True), (-0.9996, False)])
def test_slerp_is_a_line_only_beyond_its_threshold(cosine: float, arc: bool) -> None:
    sources = Sources("w", torch.ones(1), [torch.ones(1)])
    sources.set_prepared({"gram": torch.tensor([[1.0, cosine], [cosine, 1.0]], dtype=torch.float64)})
    found = slerp.coefficients(Setup(sources), Genes({"t": 0.3}, ({},), {}))
    angle = math.acos(cosine)
    wanted = (math.sin(0.7 * angle) / math.sin(angle), math.sin(0.3 * angle) / math.sin(angle)) if arc else (0.7, 0.3)
    assert (found.base, *found.experts) == pytest.approx(wanted, abs=1e-12)
