"""Findings about norms within an expert: tensors and layers whose delta is several times larger or smaller than usual.

Norms are compared on a logarithmic scale. The usual norm of a matrix is that of the same matrix in the other layers,
times the factor by which the other matrices of its layer differ from theirs in other layers. Both are medians.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from evomerge.audit.finding import Finding, Kind, some
from evomerge.audit.measure import Matrix
from evomerge.audit.survey import Survey

OUTLIER = math.log(4.0)  # real experts stay within 2.2 (matrices) and 1.5 (layers) of their usual norms
OUTLIER_OF_TWO = math.log(6.0)  # with two layers, each is the only measure of the other
OUTLIER_OUTSIDE = math.log(6.0)  # embeddings and heads are compared with those of the other experts, within 3
ENOUGH_SERIES = 4  # with fewer matrices in a layer, the layer's factor would hide an unusual matrix
SCALED = 3.0  # ‖expert's tensor‖/‖base's tensor‖ of the same direction: fine-tuning does not scale weights
SAME_DIRECTION = 0.9
SMALL = 0.05  # root mean square of a base's vector: a bias near zero may grow by any factor
REMEDY = "compare it with the expert's source and save it again; if it is meant, give these layers their own weight"

Factors = dict[str, float]  # name → logarithm of the factor beyond the usual norm


def unusual_norms(survey: Survey) -> Iterator[Finding]:
    """At most one finding for an expert's layers and one for its tensors."""
    for number, label in enumerate(survey.labels):
        layers: Factors = {}
        tensors: Factors = {}
        for stack in _stacks(survey, number).values():
            found = _layers(stack)
            layers |= found
            tensors |= _matrices(stack, found)
        tensors |= _outside(survey, number) | _scaled(survey, number)
        if layers:
            yield _finding("norm of a layer", label, layers, "not the norm of the other layers")
        if tensors:
            yield _finding("norm of a tensor", label, tensors, "not the norm of its neighbours")


def _finding(kind: Kind, label: str, factors: Mapping[str, float], text: str) -> Finding:
    ordered = sorted(factors.items(), key=lambda entry: -abs(entry[1]))
    shown = [f"{name} × {math.exp(factor):.2g}" for name, factor in ordered]
    return Finding(kind, (label,), "warning", f"{text}: {some(shown)}", REMEDY)


class _Stack:
    """The logarithms of the norms of one stack's deltas, [matrices of a layer, layers]; NaN where there is none."""

    def __init__(self, name: str, entries: dict[tuple[str, int], tuple[str, float]]) -> None:
        self.name = name
        series, self.layers = sorted({key[0] for key in entries}), sorted({key[1] for key in entries})
        self.names = {
            (i, j): entries.get((s, n), ("", 0.0))[0] for i, s in enumerate(series) for j, n in enumerate(self.layers)
        }
        self.logs = np.array([[entries.get((s, n), ("", math.nan))[1] for n in self.layers] for s in series])

    @property
    def factors(self) -> Matrix:
        """How far each layer is from the median layer: the median over its matrices."""
        with np.errstate(all="ignore"):
            profile = np.nanmedian(self.logs - np.nanmedian(self.logs, axis=1, keepdims=True), axis=0)
        return np.asarray(profile - np.nanmedian(profile))


def _stacks(survey: Survey, number: int) -> dict[str, _Stack]:
    found: dict[str, dict[tuple[str, int], tuple[str, float]]] = {}
    for tensor in survey.matrices(number):
        if tensor.layer and (norm := float(tensor.norms[number + 1])) > 0:
            stack, layer = tensor.layer
            found.setdefault(stack, {})[tensor.series, layer] = tensor.name, math.log(norm)
    return {name: _Stack(name, entries) for name, entries in found.items()}


def _layers(stack: _Stack) -> Factors:
    """The layers in which all matrices together are unusual."""
    if len(stack.logs) < 2 or len(stack.layers) < 2:
        return {}
    factors = stack.factors
    if len(stack.layers) == 2:
        difference = float(factors[1] - factors[0])
        layer = stack.layers[1] if difference > 0 else stack.layers[0]
        return {f"{stack.name}.{layer}": abs(difference)} if abs(difference) > OUTLIER_OF_TWO else {}
    pairs = zip(stack.layers, factors, strict=True)
    return {f"{stack.name}.{layer}": float(factor) for layer, factor in pairs if abs(factor) > OUTLIER}


def _matrices(stack: _Stack, layers: Factors) -> Factors:
    """The matrices that are unusual for their layer, or in their series where a layer has few matrices."""
    if len(stack.layers) < 2 or stack.logs.shape == (1, 2):
        return {}
    enough = len(stack.logs) >= ENOUGH_SERIES
    rest = stack.logs - stack.factors if enough else stack.logs
    if len(stack.layers) == 2:
        return _of_two(stack, rest)
    rest = rest - np.nanmedian(rest, axis=1, keepdims=True)
    found = {stack.names[i, j]: float(rest[i, j]) for i, j in np.argwhere(np.abs(rest) > OUTLIER)}
    if enough:
        return found
    return {name: v for name, v in found.items() if not any(name.startswith(f"{layer}.") for layer in layers)}


def _of_two(stack: _Stack, rest: Matrix) -> Factors:
    """With two layers: the matrix of a pair that is farther from the median of its layer."""
    found: Factors = {}
    differences = rest[:, 1] - rest[:, 0]
    if np.isnan(differences).all():
        return found
    differences = differences - np.nanmedian(differences)
    for i in np.flatnonzero(np.abs(differences) > OUTLIER_OF_TWO):
        far = int(np.argmax(np.abs(stack.logs[i] - np.nanmedian(stack.logs, axis=0))))
        found[stack.names[int(i), far]] = float(differences[i]) * (1 if far else -1)
    return found


def _outside(survey: Survey, number: int) -> Factors:
    """Matrices outside the stacks that are unusual against every other expert, of which there are at least two."""
    others = [other for other in range(len(survey.labels)) if other != number]
    found: Factors = {}
    ratios = {other: _log_ratios(survey, number, other) for other in others}
    for tensor in survey.matrices(number):
        values = [r[tensor.name] - float(np.median(list(r.values()))) for r in ratios.values() if tensor.name in r]
        if tensor.layer is None and len(values) > 1 and min(values) * max(values) > 0:
            nearest = min(values, key=abs)
            found |= {tensor.name: nearest} if abs(nearest) > OUTLIER_OUTSIDE else {}
    return found


def _log_ratios(survey: Survey, one: int, other: int) -> Factors:
    """Name → log ‖δ of one‖/‖δ of the other‖ for the matrices that both change."""
    common = survey.common(one, other)
    return {tensor.name: float(np.log(tensor.norms[one + 1] / tensor.norms[other + 1])) for tensor in common}


def _scaled(survey: Survey, number: int) -> Factors:
    """The tensors, norms and biases too, that are the base's times a factor."""
    found: Factors = {}
    for tensor in survey.tensors:
        base, delta, product = tensor.gram[0, 0], tensor.gram[number + 1, number + 1], tensor.gram[0, number + 1]
        is_small = base < SMALL**2 * math.prod(tensor.shape) and not tensor.is_matrix
        if tensor.kinds[number] != "weight" or base == 0 or is_small or not survey.is_usable(tensor, number):
            continue
        own = base + 2 * product + delta
        cosine = (base + product) / math.sqrt(max(base * own, 1e-300))
        if cosine > SAME_DIRECTION and not 1 / SCALED < (ratio := math.sqrt(own / base)) < SCALED:
            found[tensor.name] = math.log(ratio)
    return found
