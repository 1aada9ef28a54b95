"""Random recipes of mixtures of experts.

mergekit 0.1.5 reads Mixtral and Qwen3-MoE as transformers 5 keeps them in memory, with one stacked tensor for all
experts of a layer, and writes them so. Of files that hold them so, every method gives the same tensors. Of files with
a tensor for each expert, methods without statistics of a tensor give the same model.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.models.mixtures import mixture
from tests.parity.oracle import Oracle
from tests.parity.recipes import Recipe, entry, recipe

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
KINDS = ("mixtral", "qwen3_moe")
FILTERS = ("self_attn", "mlp.gate.", "experts.gate_up_proj", "down_proj", "norm")
METHODS: dict[str, tuple[str, ...]] = {
    "linear": ("weight",),
    "task_arithmetic": ("weight",),
    "ties": ("weight", "density"),
    "breadcrumbs": ("weight", "density"),
    "slerp": (),
}


def members(kind: str, together: bool, root: Path) -> list[str]:
    names = ("base", "e1", "e2")
    for seed, name in enumerate(names):
        mixture(kind, root / name, seed, together=together, num_hidden_layers=3)
    return [str(root / name) for name in names]


def value(draw: random.Random) -> Any:
    """A number, a gradient over the layers, or values by filters."""
    number = lambda: round(draw.uniform(0.2, 0.9), 2)  # noqa: E731
    form = draw.randrange(3)
    if form == 0:
        return number()
    if form == 1:
        return [number() for _ in range(3)]
    chosen = draw.sample(FILTERS, 2)
    return [*({"filter": text, "value": number()} for text in chosen), {"value": number()}]


def random_recipe(method: str, paths: list[str], draw: random.Random) -> Recipe:
    base, *experts = paths
    if method == "slerp":
        return recipe("slerp", base, [entry(base), entry(experts[0])], t=value(draw))
    entries = [entry(path, **{key: value(draw) for key in METHODS[method]}) for path in experts]
    return recipe(method, None if method == "linear" else base, entries, normalize=draw.random() < 0.5)


@pytest.mark.parametrize("seed", range(20))
def test_random_recipes_of_stacked_tensors(
    seed: int, check: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    draw = random.Random(seed)
    paths = members(KINDS[seed % 2], True, tmp_path_factory.mktemp("mixture"))
    check(random_recipe(list(METHODS)[seed % len(METHODS)], paths, draw))


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_with_a_tensor_for_each_expert(
    kind: str, method: str, oracle: Oracle, ours: Callable[[Recipe], Path], tmp_path: Path
) -> None:
    paths = members(kind, False, tmp_path)
    entries = [entry(path, weight=weight) for path, weight in zip(paths[1:], (0.6, 0.3), strict=True)]
    made = recipe(method, None if method == "linear" else paths[0], entries)
    found, wanted = (AutoModelForCausalLM.from_pretrained(folder) for folder in (ours(made), oracle.merge(made)))
    theirs = dict(wanted.named_parameters())
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-6, atol=1e-6)
