"""Compare what can be done with the routers of a merged mixture of experts: merge, keep or calibrate them.

usage: python -m experiments.moe.compare FOLDER

FOLDER is what train_olmoe has written. Prints a Markdown table. Routers are calibrated on the first 60 items of every
task; each row is scored on the last 300.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from evomerge.merging import Materializer
from evomerge.models import Family, load_model
from evomerge.recipes import FilteredValue, ModelRef, Recipe, Source, recipe_of_models
from evomerge.routing import RouterDomain, RouterWork, calibrate_routers, router_names
from experiments.quickstart.measure_family import EXPERTS, TASKS, Task, accuracy, read_task

log = logging.getLogger("compare")

ROUTER_ITEMS, SCORED = slice(0, 60), slice(120, None)
COEFFICIENTS = (0.33, 0.5, 0.7, 1.0)
ROUTER = "mlp.gate."


def recipe(family: Family, weights: Mapping[ModelRef, float], keep: bool = False) -> Recipe:
    """Task arithmetic with one weight for each expert; the routers are the base's if `keep`."""

    def setting(weight: float) -> object:
        return (FilteredValue(ROUTER, 0.0), FilteredValue(None, weight)) if keep else weight

    sources = tuple(Source(ref, {"weight": setting(weight)}) for ref, weight in weights.items())  # type: ignore[dict-item]
    return recipe_of_models("task_arithmetic", family.ref, sources, {"normalize": False})


def domains(tasks: Mapping[str, Task], models: Mapping[str, ModelRef]) -> RouterWork:
    """The right answers of the first items of each task, with the model that knows it."""
    found = []
    for name, task in tasks.items():
        ids, counted, gold = (part[ROUTER_ITEMS] for part in (task.ids, task.counted, task.gold))
        rows = [ids[i, right] for i, right in enumerate(gold)]
        ends = [int(counted[i, right].nonzero().max()) + 1 for i, right in enumerate(gold)]
        texts = tuple(tuple(row[:end].tolist()) for row, end in zip(rows, ends, strict=True))
        found.append(RouterDomain(models[name], texts))
    return RouterWork(tuple(found))


def rows(
    family: Family, model: PreTrainedModel, tasks: Mapping[str, Task], refs: Mapping[str, ModelRef]
) -> Iterator[str]:
    """The lines of the table."""
    materializer, work = Materializer(family, compiled=False), domains(tasks, {"copy": family.ref, **refs})

    def line(label: str) -> str:
        found = [accuracy(model, task, SCORED) for task in tasks.values()]
        return f"| {label} | {' | '.join(f'{value:.3f}' for value in [*found, sum(found) / len(found)])} |"

    for name in EXPERTS:
        materializer.write(recipe(family, {refs[name]: 1.0}), model)
        yield line(f"expert {name}")
    for coefficient in COEFFICIENTS:
        weights = dict.fromkeys(refs.values(), coefficient)
        for label, keep in (("merged", False), ("kept", True)):
            materializer.write(recipe(family, weights, keep), model)
            yield line(f"{coefficient} each, routers {label}")
        materializer.write(recipe(family, weights), model)
        with torch.no_grad():
            for name, weight in calibrate_routers(model, family, router_names(family), work).items():
                model.get_parameter(family.base.parameter[name]).copy_(weight)
        materializer.invalidate()
        yield line(f"{coefficient} each, routers calibrated")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="of family/ and data/")
    folder = parser.parse_args().folder
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    disable_progress_bar()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "family" / "base")
    tasks = {name: read_task(folder / "data" / f"{name}.jsonl", tokenizer) for name in TASKS}
    refs = {name: ModelRef(str(folder / "family" / name)) for name in EXPERTS}
    family = Family(ModelRef(str(folder / "family" / "base")), refs.values())
    log.info("| model | %s | mean |\n|---%s", " | ".join(tasks), "|---" * (len(tasks) + 1) + "|")
    for text in rows(family, load_model(family.base.folder, dtype="float32"), tasks, refs):
        log.info("%s", text)


if __name__ == "__main__":
    main()
