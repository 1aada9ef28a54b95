"""Findings about a delta that is missing: an expert equal to the base, a near-zero delta, layers without a delta."""

from collections.abc import Iterator

import numpy as np

from evomerge.audit.finding import Finding, some
from evomerge.audit.measure import TensorStatistics
from evomerge.audit.survey import Survey
from evomerge.models import AdapterExpert, Family

NEAR_ZERO = 1e-5  # ‖δ‖/‖W‖: a light fine-tuning has 1e-3, and a rounding to float32 has 1e-7
NO_DELTA = 1e-3  # of the median norm of the same tensor in other layers, which differ by a factor of 3 at most
FROZEN = 0.4  # a tensor of a full checkpoint that changes in fewer layers than this was frozen on purpose


def missing_deltas(survey: Survey) -> Iterator[Finding]:
    """The whole expert if it has no delta, else its layers without one and its modules that the file lacks."""
    for number, expert in enumerate(survey.experts):
        if whole := _whole(survey, number):
            yield whole
            continue
        if layers := _layers_without_delta(survey, number):
            yield layers
        if isinstance(expert, AdapterExpert) and (modules := _missing_modules(survey.family, expert)):
            evidence = f"target_modules selects {some(modules)}, of which the file has no tensor"
            remedy = "download the adapter again, or correct target_modules in adapter_config.json"
            yield Finding("adapter fields", (survey.labels[number],), "warning", evidence, remedy)


def _whole(survey: Survey, number: int) -> Finding | None:
    """The finding for an expert without a delta in any tensor, or with one that is near zero in all of them."""
    who, is_adapter = (survey.labels[number],), isinstance(survey.experts[number], AdapterExpert)
    if any(model == number + 1 for _, model in survey.faulty):
        return None
    if not any(tensor.changed[number] for tensor in survey.tensors):
        evidence = "lora_A, lora_B or lora_alpha is zero in every module" if is_adapter else "it is the base to the bit"
        remedy = "give the trained checkpoint, or leave the expert out; or the base is an expert that was given as base"
        return Finding("equal to the base", who, "warning", evidence, remedy)
    relative = survey.relative_norm(number)
    if survey.matrices(number) and relative < NEAR_ZERO:
        remedy = "check the training (learning rate, lora_alpha, the step that was saved), or leave the expert out"
        return Finding("near-zero delta", who, "warning", f"‖δ‖/‖base‖ is {relative:.1e}", remedy)
    return None


def _layers_without_delta(survey: Survey, number: int) -> Finding | None:
    by_layer: dict[str, list[str]] = {}
    for tensors in _series(survey):
        norms = np.array([tensor.norms[number + 1] if tensor.changed[number] else 0.0 for tensor in tensors])
        if not (norms > 0).any():
            continue
        usual = float(np.median(norms[norms > 0]))
        present = float((norms > NO_DELTA * usual).mean())
        for tensor, norm in zip(tensors, norms, strict=True):
            if norm <= NO_DELTA * usual and _is_expected(survey, tensor, number, present):
                by_layer.setdefault(_layer_name(tensor), []).append(tensor.name)
    if not by_layer:
        return None
    names = [name for found in by_layer.values() for name in found]
    layers = ", ".join(by_layer) if len(by_layer) <= 6 else f"{next(iter(by_layer))} and {len(by_layer) - 1} more"
    evidence = f"{len(names)} matrices have no delta, and have one in other layers: {layers} ({some(names, 1)})"
    remedy = "download or save the expert again; if these layers were frozen in its training, nothing is wrong"
    return Finding("layers without delta", (survey.labels[number],), "warning", evidence, remedy)


def _series(survey: Survey) -> list[list[TensorStatistics]]:
    """The matrices of the same name in all layers, for each name."""
    found: dict[str, list[TensorStatistics]] = {}
    for tensor in survey.tensors:
        if tensor.is_matrix and tensor.layer:
            found.setdefault(tensor.series, []).append(tensor)
    return list(found.values())


def _is_expected(survey: Survey, tensor: TensorStatistics, number: int, present: float) -> bool:
    """Whether the expert was meant to change the matrix: by the adapter's configuration, or by the other layers."""
    if (tensor.name, number + 1) in survey.faulty:
        return False
    expert = survey.experts[number]
    if tensor.kinds[number] == "none" and isinstance(expert, AdapterExpert):
        path = survey.family.base.parameter[tensor.name]
        return expert.adapter.is_selected(path.removesuffix(".weight"))
    return tensor.kinds[number] == "factors" or present >= FROZEN


def _layer_name(tensor: TensorStatistics) -> str:
    assert tensor.layer is not None
    return f"{tensor.layer[0]}.{tensor.layer[1]}"


def _missing_modules(family: Family, expert: AdapterExpert) -> list[str]:
    """The entries of `target_modules` that name modules of the base but none of the adapter's file."""
    targets = expert.adapter.config.get("target_modules")
    changed = [name.rpartition(".")[0] for name in expert.adapter.names()]
    known = [path.rpartition(".")[0] for path in family.base.skeleton.paths]

    def has(modules: list[str], target: str) -> bool:
        return any(f".{module}".endswith(f".{target}") for module in modules)

    names = targets if isinstance(targets, list) else []
    return [target for target in names if has(known, target) and not has(changed, target)]
