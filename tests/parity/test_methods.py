"""Every method with scalar parameters, on every architecture."""

from collections.abc import Callable

import pytest

from tests.parity.families import BUILDERS, Family
from tests.parity.recipes import Recipe, entry, recipe, slerp, weighted

pytestmark = pytest.mark.parity

Case = Callable[[Family], Recipe]
THREE = (0.6, 0.3, 0.5)


def ties(family: Family, densities: tuple[float, ...], **parameters: object) -> Recipe:
    entries = [
        entry(path, weight=weight, density=density)
        for path, weight, density in zip(family.experts, THREE, densities, strict=True)
    ]
    return recipe("ties", family.base, entries, **parameters)


def with_base(method: str, family: Family, base_weight: float, **parameters: object) -> Recipe:
    entries = [entry(family.base, weight=base_weight), *(entry(e, weight=0.4) for e in family.experts)]
    return recipe(method, family.base, entries, **parameters)


LINEAR: dict[str, Case] = {
    "normalised, no base": lambda f: recipe("linear", None, weighted("linear", f, *THREE)["models"]),
    "plain sum": lambda f: recipe("linear", None, weighted("linear", f, *THREE)["models"], normalize=False),
    "base as a source": lambda f: with_base("linear", f, 0.25),
    "base as a source, plain sum": lambda f: with_base("linear", f, -0.2, normalize=False),
    "base with weight zero": lambda f: with_base("linear", f, 0.0),
    "negative weight": lambda f: recipe("linear", None, weighted("linear", f, 0.9, 0.4, -0.3)["models"]),
    "one weight for all": lambda f: recipe("linear", f.base, [entry(e) for e in f.experts], weight=0.5),
}
TASK_ARITHMETIC: dict[str, Case] = {
    "plain": lambda f: weighted("task_arithmetic", f, *THREE),
    "one expert": lambda f: weighted("task_arithmetic", f, 0.7),
    "normalised": lambda f: weighted("task_arithmetic", f, *THREE, normalize=True),
    "negative weight": lambda f: weighted("task_arithmetic", f, 0.8, -0.4, 0.3),
    "lambda": lambda f: weighted("task_arithmetic", f, *THREE, lambda_=0.6),
    "lambda, normalised": lambda f: weighted("task_arithmetic", f, *THREE, lambda_=1.7, normalize=True),
    "weights that cancel": lambda f: weighted("task_arithmetic", f, 0.5, -0.5, normalize=True),
    "base listed": lambda f: with_base("task_arithmetic", f, 3.0),
    "lambda zero": lambda f: weighted("task_arithmetic", f, *THREE, lambda_=0),
    "all weights zero": lambda f: weighted("task_arithmetic", f, 0.0, 0.0),
}
SLERP: dict[str, Case] = {
    "t 0": lambda f: slerp(f, f.far, 0),
    "t 0.3": lambda f: slerp(f, f.far, 0.3),
    "t 0.8, a close expert": lambda f: slerp(f, f.experts[2], 0.8),
    "t 1": lambda f: slerp(f, f.far, 1),
    "t beyond 1": lambda f: slerp(f, f.far, 1.2),
    "nearly parallel": lambda f: slerp(f, f.twin, 0.5),
    "opposite, and tensors of zeros": lambda f: slerp(f, f.mirror, 0.3),
    "another base": lambda f: slerp(f, f.experts[0], 0.5, base_model=f.experts[0]),
    "base last": lambda f: recipe("slerp", f.base, [entry(f.far), entry(f.base)], t=0.25),
    "base not listed": lambda f: recipe("slerp", f.base, [entry(f.far)], t=0.25),
}
TIES: dict[str, Case] = {
    **{f"density {d}": lambda f, d=d: ties(f, (d, d, d)) for d in (0.05, 0.3, 0.5, 1.0)},
    "density per expert": lambda f: ties(f, (0.2, 0.9, 0.4)),
    "density of nothing": lambda f: ties(f, (0.0, 0.5, 0.0)),
    "density by default": lambda f: weighted("ties", f, *THREE),
    "plain sum": lambda f: ties(f, (0.4, 0.4, 0.4), normalize=False),
    "plain sum, lambda": lambda f: ties(f, (0.3, 0.5, 0.4), normalize=False, lambda_=1.4),
    "lambda": lambda f: ties(f, (0.5, 0.5, 0.5), lambda_=0.8),
    "int8 mask": lambda f: ties(f, (0.3, 0.3, 0.3), int8_mask=True),
    "rescaled": lambda f: ties(f, (0.3, 0.6, 0.3), rescale=True),
    "negative weight": lambda f: weighted("ties", f, 0.9, -0.35, 0.2, density=0.5, normalize=False),
    "negative weight, normalised": lambda f: weighted("ties", f, 0.9, -0.35, 0.2, density=0.5),
    "a weight of zero": lambda f: weighted("ties", f, 0.6, 0.0, 0.3, density=0.5),
    "opposite experts": lambda f: recipe("ties", f.far, [entry(f.base), entry(f.mirror)], weight=0.5),
    "one expert": lambda f: weighted("ties", f, 0.5, density=0.3, normalize=False),
}
DARE: dict[str, Case] = {
    "linear, density 1": lambda f: weighted("dare_linear", f, *THREE, density=1.0),
    "linear, normalised": lambda f: weighted("dare_linear", f, *THREE, normalize=True, lambda_=1.2),
    "ties, density 1": lambda f: weighted("dare_ties", f, *THREE, density=1.0),
    "ties, normalised": lambda f: weighted("dare_ties", f, *THREE, normalize=True, lambda_=0.7),
    "ties, negative weight": lambda f: weighted("dare_ties", f, 0.8, -0.5, 0.4),
}
CASES = {
    f"{method}: {name}": case
    for method, cases in {
        "linear": LINEAR,
        "task_arithmetic": TASK_ARITHMETIC,
        "slerp": SLERP,
        "ties": TIES,
        "dare": DARE,
    }.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("architecture", [name for name in BUILDERS if name != "llama-deep"])
@pytest.mark.parametrize("case", CASES)
def test_scalar_parameters(
    architecture: str, case: str, family: Callable[[str], Family], check: Callable[[Recipe], None]
) -> None:
    check(CASES[case](family(architecture)))
