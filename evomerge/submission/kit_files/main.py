"""Merge and predict by name, for any method of this checkout: this file replaces the starter kit's main.py.

It needs no list of methods. A name is that of a file in llm_merging/merging with one subclass of Merges, in any
spelling: `llama_avg` and `LlamaAvg` are the same.
"""

import argparse
import importlib
import os
from pathlib import Path

from llm_merging.evaluation import evaluate_model
from llm_merging.merging.Merges import Merges

METHODS = Path(__file__).resolve().parent / "merging"
VALIDATION = ["data/validation/cosmos_qa.csv", "data/validation/xsum.csv"]


def plain(name: str) -> str:
    """The name without underscores and case."""
    return name.replace("_", "").lower()


def find_method(name: str) -> type[Merges]:
    """The subclass of Merges in the file of this name."""
    files = {plain(path.stem): path.stem for path in METHODS.glob("*.py")}
    if plain(name) not in files:
        raise SystemExit(f"{name}: no file of this name in {METHODS}; give -m the name of one")
    module = importlib.import_module(f"llm_merging.merging.{files[plain(name)]}")
    found = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    methods = [kind for kind in found if issubclass(kind, Merges)]
    if not methods:
        raise SystemExit(f"{name}: its file has no subclass of Merges; give -m the name of another")
    return methods[0]


def main() -> None:
    """Merge, predict every file, and write the predictions."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", "--merging_method", required=True)
    parser.add_argument("--dataset_filepaths", nargs="+", default=VALIDATION)
    parser.add_argument("--output_folder", default="../output")
    arguments = parser.parse_args()
    os.makedirs(arguments.output_folder, exist_ok=True)
    method = find_method(arguments.merging_method)(arguments.merging_method)
    method.merge()
    evaluate_model(method, arguments.dataset_filepaths, arguments.output_folder)


if __name__ == "__main__":
    main()
