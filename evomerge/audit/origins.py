"""Findings about full checkpoints that are no fine-tuning of the base, in whole or in some tensors.

The weights of a fine-tuned model have a cosine near 1 with those of its base. Those of another training have a cosine
near 0, and a difference of √2 times their norm. A tensor with a low cosine may be that of another layer.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from evomerge.audit.finding import Finding, some
from evomerge.audit.measure import TensorStatistics
from evomerge.audit.survey import Survey
from evomerge.models import AdapterExpert, layer_of

UNRELATED = 0.5  # cosine of weights, and ⟨expert, base⟩/‖base‖²: 0.9 to 1 after fine-tuning, 0.1 for other trainings
MATCH = 0.8  # cosine with the right tensor of the base
SAMPLE = 1 << 14  # elements that are compared with every candidate; an accidental cosine is below 0.05
SHOWN = 4


def origins(survey: Survey) -> Iterator[Finding]:
    """One finding for each expert with tensors that are no fine-tuning of the base's; marks them in the survey."""
    for number in range(len(survey.labels)):
        matrices = [tensor for tensor in survey.matrices(number) if tensor.kinds[number] == "weight"]
        strange = [tensor for tensor in matrices if _is_unrelated(tensor, number)]
        if strange:
            yield _unrelated(survey, number, strange, len(matrices))
            survey.faulty |= {(tensor.name, number + 1) for tensor in strange}


def _unrelated(survey: Survey, number: int, strange: list[TensorStatistics], count: int) -> Finding:
    who = (survey.labels[number],)
    numbers = _numbers(strange, number)
    expert = survey.experts[number]
    if isinstance(expert, AdapterExpert) and expert.origin is None:
        evidence = f"the adapter's saved weights are far from the base's: {some([t.name for t in strange])} ({numbers})"
        return Finding("wrong base", who, "error", evidence, "give the base that the adapter was trained on")
    moved = _moved(survey, number, strange)
    if len(moved) > len(strange) / 2:
        evidence = f"{len(moved)} matrices are those of another place in the base: {_changes(moved)}"
        return Finding("permuted layers", who, "error", evidence, "save the expert with its layers in the base's order")
    if len(strange) > count / 2:
        evidence = f"{len(strange)} of {count} matrices are unrelated to the base's ({numbers})"
        return Finding("wrong base", who, "error", evidence, "give the base that the expert was fine-tuned from")
    evidence = f"{some([tensor.name for tensor in strange])}: unrelated to the base's ({numbers})"
    return Finding("wrong tensor", who, "error", evidence, "compare it with the expert's source; save the expert again")


def _is_unrelated(tensor: TensorStatistics, number: int) -> bool:
    """Whether the expert's weights do not contain the base's: a delta of ten times the norm does not hide them."""
    share = 1 + tensor.gram[0, number + 1] / max(tensor.gram[0, 0], 1e-300)
    return _cosine(tensor, number) < UNRELATED and share < UNRELATED


def _cosine(tensor: TensorStatistics, number: int) -> float:
    """The cosine of the expert's weights and the base's; 1 if the base's are zero."""
    base, product, delta = tensor.gram[0, 0], tensor.gram[0, number + 1], tensor.gram[number + 1, number + 1]
    own = base + 2 * product + delta
    return float((base + product) / np.sqrt(base * own)) if base > 0 and own > 0 else 1.0


def _numbers(tensors: list[TensorStatistics], number: int) -> str:
    cosine = float(np.median([_cosine(tensor, number) for tensor in tensors]))
    ratio = float(np.median([tensor.norms[number + 1] / tensor.norms[0] for tensor in tensors]))
    return f"cosine {cosine:.2f}, ‖δ‖/‖base‖ {ratio:.2f}"


def _moved(survey: Survey, number: int, strange: list[TensorStatistics]) -> dict[str, str]:
    """Name → the name of the base's tensor of the same shape that it is, for the tensors that have one."""
    samples: dict[tuple[int, ...], dict[str, Tensor]] = {}
    for tensor in survey.tensors:
        if tensor.is_matrix and tensor.shape in {other.shape for other in strange}:
            samples.setdefault(tensor.shape, {})[tensor.name] = _sample(survey.family.base.tensor(tensor.name))
    found: dict[str, str] = {}
    for tensor in strange:
        update = survey.family.update(survey.refs[number], tensor.name)
        assert isinstance(update, Tensor)
        names, own = list(samples[tensor.shape]), _sample(update)
        cosines = torch.stack([samples[tensor.shape][name] for name in names]) @ own
        if float(cosines.max()) > MATCH:
            found[tensor.name] = names[int(cosines.argmax())]
    return found


def _sample(tensor: Tensor) -> Tensor:
    """Evenly spaced elements as a vector of norm 1; an odd stride, so that they are not all of a few columns."""
    flat = tensor.reshape(-1)
    picked = flat[:: (flat.numel() // SAMPLE) | 1].float()
    unit: Tensor = picked / picked.norm().clamp_min(1e-30)
    return unit


def _changes(moved: dict[str, str]) -> str:
    """`layer 3 is the base's layer 5`, the most frequent first; tensor by tensor within a layer."""
    counts = Counter[str]()
    for name, other in moved.items():
        one, two = layer_of(name), layer_of(other)
        is_layer = one and two and one != two
        counts[f"layer {one[1]} holds layer {two[1]}" if one and two and is_layer else f"{name} holds {other}"] += 1
    return some([text for text, _ in counts.most_common()], SHOWN)
