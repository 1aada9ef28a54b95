"""Findings about stored numbers: NaN, infinity, huge and denormal values, zeroed blocks, dtypes that are no float."""

from collections.abc import Iterator
from statistics import median

import torch

from evomerge.audit.finding import Finding, Kind, Severity, some
from evomerge.audit.measure import TensorStatistics
from evomerge.audit.survey import Survey
from evomerge.audit.values import FLOATS, Values
from evomerge.models import outer_kind

# The largest magnitude by the median is below 100 in trained weights and below 10 in trained factors.
HUGE_WEIGHT, HUGE_FACTOR = 1e4, 1e3
BEYOND_BASE = 100  # a value that the base has, too, is no fault of an expert
HUGE_VECTOR = 1e3  # biases and norms: beside the base's largest, or beside 1
DENORMAL = {torch.float16: 0.5}  # share of the elements; float16 is denormal below 6e-5, where small updates lie
DENORMAL_ELSE = 0.1
ZEROED = 0.01  # share of elements that are zero in the expert only; or a row, unless it is that of a token
ZEROED_ROWS = 0.05  # of embeddings and heads, where tokens that were never seen are zero in some models
ZEROED_FACTOR = 0.01
ZEROED_BASE = 0.2  # more than in the same tensor of other layers: up to a tenth is zero in real models
ALWAYS_ZERO = 0.5
FLOAT16_MAX = 65504.0

REMEDIES: dict[Kind, tuple[Severity, str]] = {
    "not finite": ("error", "download or save the model again; after float16 training, save it in bfloat16 or float32"),
    "dtype": ("error", "save the model in bfloat16 or float32; dequantise it first if it is quantised"),
    "huge values": ("error", "download or save the model again; a single such value dominates every merge"),
    "denormal values": ("warning", "save the model in bfloat16 or float32: these values have lost their digits"),
    "zeroed block": ("warning", "download the model again, the file may have been cut off; compare its SHA-256"),
}
Faults = dict[tuple[int, Kind], list[tuple[str, str]]]  # model and kind → tensors, each with its evidence


def stored_values(survey: Survey) -> list[Finding]:
    """One finding for each model and kind of fault; marks the tensors as faulty in the survey."""
    faults: Faults = {}
    usual = [_usual_zeros(survey, model) for model in range(len(survey.labels) + 1)]
    series = _zeros_of_series(survey)
    for tensor in survey.tensors:
        for model, values in enumerate(tensor.values):
            expected = max(usual[model], series[tensor.series]) if not model else usual[model]
            for kind, evidence in _faults(tensor, model, values, expected, survey.dtype):
                faults.setdefault((model, kind), []).append((tensor.name, evidence))
                survey.faulty.add((tensor.name, model))
    return [_finding(survey.name(model), kind, found) for (model, kind), found in faults.items()]


def _finding(who: str, kind: Kind, found: list[tuple[str, str]]) -> Finding:
    severity, remedy = REMEDIES[kind]
    names = [name for name, _ in found]
    return Finding(kind, (who,), severity, f"{found[0][1]} in {some(names)}", remedy)


def _faults(
    tensor: TensorStatistics, model: int, values: tuple[Values, ...], usual: float, dtype: str
) -> Iterator[tuple[Kind, str]]:
    """The faults of one tensor of one model."""
    is_factors = len(values) > 1
    for value in values:
        if fault := _fault_of_dtype(value, dtype) or _not_finite(value):
            yield fault
            return
        if _is_huge(tensor, model, value, is_factors):
            yield "huge values", f"a value of {value.largest:.3g}, the median magnitude is {value.median:.2g},"
            return
        if tensor.is_matrix and value.denormal > DENORMAL.get(value.dtype, DENORMAL_ELSE):
            yield "denormal values", f"{value.denormal:.0%} denormal values of {_name(value.dtype)}"
            return
    if share := _zeroed(tensor, model, values, usual):
        yield "zeroed block", f"{share:.1%} of the elements are zero"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _fault_of_dtype(value: Values, dtype: str) -> tuple[Kind, str] | None:
    if value.dtype not in FLOATS:
        return "dtype", f"values stored as {_name(value.dtype)}"
    overflows = value.dtype == torch.float16 and value.largest >= FLOAT16_MAX
    if overflows or (dtype == "float16" and value.largest > FLOAT16_MAX):
        return "dtype", f"a value of {value.largest:.6g}, the limit of float16 is {FLOAT16_MAX:.0f},"
    return None


def _not_finite(value: Values) -> tuple[Kind, str] | None:
    if value.is_finite:
        return None
    counts = [f"{count} {what}" for count, what in ((value.nan, "NaN"), (value.infinite, "infinite values")) if count]
    overflow = " (float16 overflows above 65504)" if value.dtype == torch.float16 and value.infinite else ""
    return "not finite", f"{' and '.join(counts)}{overflow}"


def _is_huge(tensor: TensorStatistics, model: int, value: Values, is_factors: bool) -> bool:
    base = tensor.values[0][0].largest
    if is_factors:
        return value.median > 0 and value.largest > HUGE_FACTOR * value.median
    if not tensor.is_matrix:
        return model > 0 and value.largest > HUGE_VECTOR * max(base, 1.0)
    is_outlier = value.median > 0 and value.largest > HUGE_WEIGHT * value.median
    return is_outlier and (model == 0 or value.largest > BEYOND_BASE * base)


def _zeroed(tensor: TensorStatistics, model: int, values: tuple[Values, ...], usual: float) -> float:
    """The share of zeros if it is a fault, else 0."""
    shares = [value.zero_share for value in values]
    if not shares or max(shares) == 0:
        return 0.0
    if len(values) > 1:  # a zero factor is no delta, which is another finding; unseen tokens have zero columns
        is_fault = max(shares) < 1 and max(shares) - usual > ZEROED_FACTOR and tensor.layer is not None
        return max(shares) if is_fault else 0.0
    base = tensor.values[0][0].zero_share
    if model:
        has_rows = tensor.layer is not None and values[0].zero_rows > tensor.values[0][0].zero_rows
        return shares[0] if has_rows or shares[0] - base > _zeroed_limit(tensor) else 0.0
    limit = ALWAYS_ZERO if outer_kind(tensor.name) == "embeddings" and not tensor.layer else ZEROED_BASE
    return shares[0] if tensor.is_matrix and shares[0] - usual > limit else 0.0


def _zeroed_limit(tensor: TensorStatistics) -> float:
    if not tensor.is_matrix:
        return ALWAYS_ZERO
    return ZEROED if tensor.layer else ZEROED_ROWS


def _usual_zeros(survey: Survey, model: int) -> float:
    """The median share of zeros over the model's matrices: a pruned model, or factors padded to a rank, have many."""
    found = [max(v.zero_share for v in t.values[model]) for t in survey.tensors if t.is_matrix and t.values[model]]
    return median(found) if found else 0.0


def _zeros_of_series(survey: Survey) -> dict[str, float]:
    """The median share of zeros of the base's tensors of the same name in other layers."""
    found: dict[str, list[float]] = {}
    for tensor in survey.tensors:
        found.setdefault(tensor.series, []).append(tensor.values[0][0].zero_share)
    return {series: median(shares) if len(shares) > 2 else 0.0 for series, shares in found.items()}
